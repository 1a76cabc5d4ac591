// Benchmark roles on Apache Tribes, one process per node; JSON lines on standard output.
//
//   CP=/usr/share/java/tomcat10-tribes.jar:/usr/share/java/tomcat10-juli.jar
//   javac -cp $CP -d target/java benches/java/TribesBench.java
//   java -cp $CP:target/java TribesBench sink   --listen 127.0.0.1:4800
//   java -cp $CP:target/java TribesBench source --to 127.0.0.1:4800:HEXID --options 2 --size 1024 --count 100000
//   java -cp $CP:target/java TribesBench member --group 228.0.0.4:45564 --listen 127.0.0.1:4000
//
// sink:   only receives, no multicast. Commands: reset, report, quit.
// source: sends to the given members and reports; then ends. With --wait it prints "ready" after the warm-up and runs one
//         round for each command run, until quit.
// member: full node with multicast and failure detector. Commands: send (one acknowledged message to all), report, quit.
//         With --wait it prints "waiting" and starts at the command go.

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.Serializable;
import java.lang.management.ManagementFactory;
import java.net.InetAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.atomic.LongAdder;
import java.util.logging.Level;
import java.util.logging.Logger;

import org.apache.catalina.tribes.ByteMessage;
import org.apache.catalina.tribes.Channel;
import org.apache.catalina.tribes.ChannelException;
import org.apache.catalina.tribes.ChannelListener;
import org.apache.catalina.tribes.ChannelMessage;
import org.apache.catalina.tribes.ErrorHandler;
import org.apache.catalina.tribes.Member;
import org.apache.catalina.tribes.MembershipListener;
import org.apache.catalina.tribes.UniqueId;
import org.apache.catalina.tribes.group.ChannelInterceptorBase;
import org.apache.catalina.tribes.group.GroupChannel;
import org.apache.catalina.tribes.group.InterceptorPayload;
import org.apache.catalina.tribes.group.interceptors.MessageDispatchInterceptor;
import org.apache.catalina.tribes.group.interceptors.TcpFailureDetector;
import org.apache.catalina.tribes.membership.McastService;
import org.apache.catalina.tribes.membership.MemberImpl;
import org.apache.catalina.tribes.transport.ReceiverBase;

public class TribesBench {

    private static final int TRANSPORT_ONLY = Channel.SND_RX_SEQ | Channel.SND_TX_SEQ;

    public static void main(String[] args) throws Exception {
        // a multicast socket bound to the group address cannot send from a dual stack socket on Linux
        if (System.getProperty("java.net.preferIPv4Stack") == null) {
            System.setProperty("java.net.preferIPv4Stack", "true");
        }
        Logger.getLogger("").setLevel(Level.SEVERE);
        String role = args.length > 0 ? args[0] : "";
        switch (role) {
            case "sink": sink(args); break;
            case "source": source(args); break;
            case "member": member(args); break;
            default:
                System.err.println("usage: TribesBench sink|source|member FLAGS");
                System.exit(2);
        }
        System.exit(0);
    }

    // ------------------------------------------------------------------- pieces

    private static String flag(String[] args, String name, String standard) {
        for (int i = 1; i + 1 < args.length; i++) {
            if (args[i].equals(name)) {
                return args[i + 1];
            }
        }
        return standard;
    }

    private static boolean present(String[] args, String name) {
        return Arrays.asList(args).contains(name);
    }

    private static int number(String[] args, String name, int standard) {
        return Integer.parseInt(flag(args, name, Integer.toString(standard)));
    }

    private static void listen(GroupChannel channel, String address) {
        int colon = address.lastIndexOf(':');
        ReceiverBase receiver = (ReceiverBase) channel.getChannelReceiver();
        receiver.setAddress(address.substring(0, colon));
        receiver.setPort(Integer.parseInt(address.substring(colon + 1)));
        receiver.setAutoBind(100);
    }

    private static String hex(byte[] bytes) {
        StringBuilder text = new StringBuilder();
        for (byte b : bytes) {
            text.append(String.format("%02x", b));
        }
        return text.toString();
    }

    private static String address(Member m) {
        String host;
        try {
            host = InetAddress.getByAddress(m.getHost()).getHostAddress();
        } catch (IOException odd) {
            host = hex(m.getHost());
        }
        return "\"host\":\"" + host + "\",\"port\":" + m.getPort() + ",\"id\":\"" + hex(m.getUniqueId()) + "\"";
    }

    private static synchronized void print(String format, Object... values) {
        System.out.println(String.format(Locale.ROOT, format, values));
        System.out.flush();
    }

    private static double cpuSeconds() {
        return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean())
                .getProcessCpuTime() / 1e9;
    }

    /** A number out of /proc/self/status. */
    private static long status(String key) throws IOException {
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith(key + ":")) {
                return Long.parseLong(line.replaceAll("[^0-9]", ""));
            }
        }
        return -1;
    }

    private static String process() throws IOException {
        return String.format(Locale.ROOT, "\"cpu_s\":%.3f,\"rss_kb\":%d,\"threads\":%d",
                cpuSeconds(), status("VmRSS"), status("Threads"));
    }

    // --------------------------------------------------------------------- sink

    private static final class Counter implements ChannelListener {
        final LongAdder count = new LongAdder();
        final LongAdder bytes = new LongAdder();
        final AtomicLong first = new AtomicLong();
        volatile long last;

        @Override
        public boolean accept(Serializable message, Member sender) {
            return true;
        }

        @Override
        public void messageReceived(Serializable message, Member sender) {
            long now = System.nanoTime();
            if (first.get() == 0) {
                first.compareAndSet(0, now);
            }
            count.increment();
            bytes.add(((ByteMessage) message).getMessage().length);
            last = now;
        }

        void reset() {
            count.reset();
            bytes.reset();
            first.set(0);
            last = 0;
        }
    }

    private static void sink(String[] args) throws Exception {
        GroupChannel channel = new GroupChannel();
        listen(channel, flag(args, "--listen", "127.0.0.1:4800"));
        channel.addInterceptor(new MessageDispatchInterceptor());
        Counter counter = new Counter();
        channel.addChannelListener(counter);
        channel.start(TRANSPORT_ONLY);
        print("{\"event\":\"ready\",%s}", address(channel.getLocalMember(false)));
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null && !line.equals("quit"); line = in.readLine()) {
            if (line.startsWith("reset")) {
                counter.reset();
            } else if (line.equals("report")) {
                print("{\"event\":\"report\",\"count\":%d,\"bytes\":%d,\"first_ns\":%d,\"last_ns\":%d,%s}",
                        counter.count.sum(), counter.bytes.sum(), counter.first.get(), counter.last, process());
            }
        }
        channel.stop(TRANSPORT_ONLY);
    }

    // ------------------------------------------------------------------- source

    /** Notices messages that leave on the caller's thread: nobody calls the error handler for those. */
    private static final class Below extends ChannelInterceptorBase {
        static final ThreadLocal<boolean[]> INLINE = ThreadLocal.withInitial(() -> new boolean[1]);

        @Override
        public void sendMessage(Member[] to, ChannelMessage message, InterceptorPayload payload) throws ChannelException {
            INLINE.get()[0] = true;
            super.sendMessage(to, message, payload);
        }
    }

    private static Member target(String text) throws IOException {
        int second = text.lastIndexOf(':');
        int first = text.lastIndexOf(':', second - 1);
        MemberImpl member = new MemberImpl(text.substring(0, first),
                Integer.parseInt(text.substring(first + 1, second)), 0);
        byte[] id = new byte[16];
        for (int i = 0; i < 16; i++) {
            id[i] = (byte) Integer.parseInt(text.substring(second + 1 + 2 * i, second + 3 + 2 * i), 16);
        }
        member.setUniqueId(id);
        return member;
    }

    private static void source(String[] args) throws Exception {
        List<Member> targets = new ArrayList<>();
        for (int i = 1; i + 1 < args.length; i++) {
            if (args[i].equals("--to")) {
                targets.add(target(args[i + 1]));
            }
        }
        Member[] to = targets.toArray(new Member[0]);
        int options = Channel.parseSendOptions(flag(args, "--options", "2"));
        int size = number(args, "--size", 1024);
        int count = number(args, "--count", 10_000);
        int threads = number(args, "--threads", 1);
        int warmup = number(args, "--warmup", 0);
        int rounds = number(args, "--rounds", 1);

        GroupChannel channel = new GroupChannel();
        listen(channel, flag(args, "--listen", "127.0.0.1:4900"));
        channel.addInterceptor(new MessageDispatchInterceptor());
        channel.addInterceptor(new Below());
        channel.start(TRANSPORT_ONLY);
        byte[] body = new byte[size];
        Arrays.fill(body, (byte) 'x');
        if (warmup > 0) {
            new Round(channel, to, options, body, warmup, threads).run();
        }
        if (present(args, "--wait")) {
            BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
            print("{\"event\":\"ready\"}");
            for (int r = 1; "run".equals(in.readLine()); r++) {
                print("%s", new Round(channel, to, options, body, count, threads).run().json(r));
            }
        } else {
            for (int r = 1; r <= rounds; r++) {
                print("%s", new Round(channel, to, options, body, count, threads).run().json(r));
            }
        }
        channel.stop(TRANSPORT_ONLY);
    }

    /** One measured run. Times are per send call; if asynchronous, from the call to the completion. */
    private static final class Round {
        final GroupChannel channel;
        final Member[] to;
        final int options;
        final byte[] body;
        final int count;
        final int threads;
        final long[] times;
        final CountDownLatch open;
        final LongAdder failed = new LongAdder();
        final LongAdder inline = new LongAdder();
        final AtomicReference<Throwable> firstProblem = new AtomicReference<>();
        double seconds;
        double cpu;

        Round(GroupChannel channel, Member[] to, int options, byte[] body, int count, int threads) {
            this.channel = channel;
            this.to = to;
            this.options = options;
            this.body = body;
            this.count = count;
            this.threads = threads;
            this.times = new long[count];
            this.open = new CountDownLatch(count);
        }

        void ended(int index, long start, Throwable problem) {
            times[index] = System.nanoTime() - start;
            if (problem != null) {
                failed.increment();
                firstProblem.compareAndSet(null, problem);
            }
            open.countDown();
        }

        void one(int index, boolean queueable, boolean[] left) {
            long start = System.nanoTime();
            try {
                if (!queueable) {
                    channel.send(to, new ByteMessage(body), options);
                    ended(index, start, null);
                    return;
                }
                left[0] = false;
                channel.send(to, new ByteMessage(body), options, new ErrorHandler() {
                    @Override
                    public void handleError(ChannelException problem, UniqueId id) {
                        ended(index, start, problem);
                    }

                    @Override
                    public void handleCompletion(UniqueId id) {
                        ended(index, start, null);
                    }
                });
                if (left[0]) {
                    inline.increment();
                    ended(index, start, null);
                }
            } catch (ChannelException | RuntimeException problem) {
                ended(index, start, problem);
            }
        }

        Round run() throws InterruptedException {
            boolean queueable = (options & Channel.SEND_OPTIONS_ASYNCHRONOUS) != 0;
            double cpuBefore = cpuSeconds();
            long start = System.nanoTime();
            Thread[] workers = new Thread[threads];
            for (int t = 0; t < threads; t++) {
                int offset = t;
                workers[t] = new Thread(() -> {
                    boolean[] left = Below.INLINE.get();
                    for (int i = offset; i < count; i += threads) {
                        one(i, queueable, left);
                    }
                });
                workers[t].start();
            }
            open.await();
            seconds = (System.nanoTime() - start) / 1e9;
            cpu = cpuSeconds() - cpuBefore;
            Arrays.sort(times);
            return this;
        }

        long quantile(double part) {
            return times[Math.min(count - 1, (int) (part * count))];
        }

        String json(int round) throws IOException {
            String problem = firstProblem.get() == null ? ""
                    : ",\"error\":\"" + firstProblem.get().toString().replaceAll("[\"\\\\\\p{Cntrl}]", " ") + "\"";
            return String.format(Locale.ROOT, "{\"event\":\"round\",\"round\":%d,\"options\":%d,\"size\":%d,"
                    + "\"count\":%d,\"threads\":%d,\"destinations\":%d,\"seconds\":%.4f,"
                    + "\"p50_ns\":%d,\"p99_ns\":%d,\"p999_ns\":%d,\"max_ns\":%d,\"rate\":%.1f,\"mb_s\":%.2f,"
                    + "\"cpu_s\":%.3f,\"rss_kb\":%d,\"failed\":%d,\"inline\":%d%s}",
                    round, options, body.length, count, threads, to.length, seconds,
                    quantile(0.5), quantile(0.99), quantile(0.999), times[count - 1],
                    count / seconds, (double) count * body.length / seconds / 1e6,
                    cpu, status("VmRSS"), failed.sum(), inline.sum(), problem);
        }
    }

    // ------------------------------------------------------------------- member

    private static void memberEvent(String name, Member m) {
        print("{\"event\":\"%s\",\"t_ms\":%d,%s}", name, System.currentTimeMillis(), address(m));
    }

    private static void member(String[] args) throws Exception {
        GroupChannel channel = new GroupChannel();
        McastService mcast = new McastService();
        String group = flag(args, "--group", "228.0.0.4:45564");
        int colon = group.lastIndexOf(':');
        mcast.setAddress(group.substring(0, colon));
        mcast.setPort(Integer.parseInt(group.substring(colon + 1)));
        mcast.setBind(flag(args, "--interface", "127.0.0.1"));
        mcast.setFrequency(number(args, "--frequency", 500));
        mcast.setDropTime(number(args, "--drop-time", 3000));
        channel.setMembershipService(mcast);
        listen(channel, flag(args, "--listen", "127.0.0.1:4000"));
        channel.addInterceptor(new MessageDispatchInterceptor());
        channel.addInterceptor(new TcpFailureDetector());
        channel.addMembershipListener(new MembershipListener() {
            @Override
            public void memberAdded(Member m) {
                memberEvent("member_added", m);
            }

            @Override
            public void memberDisappeared(Member m) {
                memberEvent("member_removed", m);
            }
        });
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        if (present(args, "--wait")) {
            print("{\"event\":\"waiting\"}");
            if (!"go".equals(in.readLine())) {
                return;
            }
        }
        print("{\"event\":\"starting\",\"t_ms\":%d}", System.currentTimeMillis());
        channel.start(Channel.DEFAULT);
        memberEvent("started", channel.getLocalMember(false));
        for (String line = in.readLine(); line != null && !line.equals("quit"); line = in.readLine()) {
            if (line.equals("send")) {
                int failed = 0;
                try {
                    channel.send(channel.getMembers(), new ByteMessage(new byte[64]), Channel.SEND_OPTIONS_USE_ACK);
                } catch (ChannelException problem) {
                    failed = problem.getFaultyMembers().length;
                }
                print("{\"event\":\"sent\",\"members\":%d,\"failed\":%d}", channel.getMembers().length, failed);
            } else if (line.equals("report")) {
                print("{\"event\":\"report\",\"t_ms\":%d,\"members\":%d,%s}",
                        System.currentTimeMillis(), channel.getMembers().length, process());
            }
        }
        channel.stop(Channel.DEFAULT);
        print("{\"event\":\"stopped\",\"t_ms\":%d}", System.currentTimeMillis());
    }
}
