// Benchmark nodes on the replicated maps of Apache Tribes, one process per node; JSON lines on standard output.
//
//   CP=/usr/share/java/tomcat10-tribes.jar:/usr/share/java/tomcat10-juli.jar
//   javac -cp $CP -d target/java benches/java/MapsBench.java
//   java -cp $CP:target/java MapsBench lazy       --group 228.0.0.4:45564 --listen 127.0.0.1:4000 --options 6
//   java -cp $CP:target/java MapsBench replicated --group 228.0.0.4:45564 --listen 127.0.0.1:4001 --options 8
//
// The channel has what Tomcat's cluster puts into it. A node prints "waiting" when its channel runs; at the command "join N" it
// waits until the channel has N other members, makes the map, which gets the state, and prints "ready".
//
// Further commands, the same as our own nodes have:
//   fill COUNT THREADS SIZE     new entries; answers "filled"
//   commit COUNT THREADS SIZE   changes the entries made here in turn, each thread its own; answers "round"
//   load MILLIS THREADS SIZE    the same for so long, with a pause after each; answers "started", later "round"
//   read COUNT                  reads the entries made here in turn; answers "reads"
//   missing COUNT FROM          how many of COUNT entries have no value of sequence FROM or later; answers "missing"
//   count                       entries held; answers "count"
//   quit
//
// A commit is what Tomcat does: LazyReplicatedMap, which is under BackupManager, has its entry changed in place and then sends the
// whole value, as no diff is known for plain bytes; ReplicatedMap, which is under ReplicatedContext, has a value put over the old one.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import java.util.logging.Handler;
import java.util.logging.Level;
import java.util.logging.LogRecord;
import java.util.logging.Logger;

import org.apache.catalina.tribes.Channel;
import org.apache.catalina.tribes.group.GroupChannel;
import org.apache.catalina.tribes.group.interceptors.MessageDispatchInterceptor;
import org.apache.catalina.tribes.group.interceptors.TcpFailureDetector;
import org.apache.catalina.tribes.membership.McastService;
import org.apache.catalina.tribes.tipis.AbstractReplicatedMap;
import org.apache.catalina.tribes.tipis.AbstractReplicatedMap.MapEntry;
import org.apache.catalina.tribes.tipis.LazyReplicatedMap;
import org.apache.catalina.tribes.tipis.ReplicatedMap;
import org.apache.catalina.tribes.transport.ReceiverBase;

public class MapsBench {

    /** The time-outs of Tomcat's managers. */
    private static final int RPC_TIMEOUT = 15_000;

    public static void main(String[] args) throws Exception {
        // a multicast socket bound to the group address cannot send from a dual stack socket on Linux
        if (System.getProperty("java.net.preferIPv4Stack") == null) {
            System.setProperty("java.net.preferIPv4Stack", "true");
        }
        // the maps tell of a message that they could not send only in the log
        for (Handler handler : Logger.getLogger("").getHandlers()) {
            Logger.getLogger("").removeHandler(handler);
        }
        Logger.getLogger("").addHandler(new Troubles());
        String kind = args.length > 0 ? args[0] : "";
        if (!kind.equals("lazy") && !kind.equals("replicated")) {
            System.err.println("usage: MapsBench lazy|replicated FLAGS");
            System.exit(2);
        }
        new MapsBench(kind.equals("lazy"), args).run();
        System.exit(0);
    }

    /** Counts what is logged as an error. */
    private static final class Troubles extends Handler {
        static final AtomicLong COUNT = new AtomicLong();

        @Override
        public void publish(LogRecord record) {
            if (record.getLevel().intValue() >= Level.SEVERE.intValue()) {
                COUNT.incrementAndGet();
            }
        }

        @Override
        public void flush() {
        }

        @Override
        public void close() {
        }
    }

    private static String flag(String[] args, String name, String standard) {
        for (int i = 1; i + 1 < args.length; i++) {
            if (args[i].equals(name)) {
                return args[i + 1];
            }
        }
        return standard;
    }

    private static synchronized void print(String format, Object... values) {
        System.out.println(String.format(Locale.ROOT, format, values));
        System.out.flush();
    }

    private final boolean lazy;
    private final String[] args;
    private final int options;
    private final String prefix;
    private final GroupChannel channel = new GroupChannel();
    private AbstractReplicatedMap<String, byte[]> map;
    /** The entries made here. */
    private final List<String> keys = new ArrayList<>();
    /** What the next value begins with. */
    private long sequence;

    private MapsBench(boolean lazy, String[] args) {
        this.lazy = lazy;
        this.args = args;
        this.options = Channel.parseSendOptions(flag(args, "--options", "6"));
        this.prefix = flag(args, "--listen", "127.0.0.1:4000") + "-";
    }

    private void run() throws Exception {
        String listen = flag(args, "--listen", "127.0.0.1:4000");
        int colon = listen.lastIndexOf(':');
        ReceiverBase receiver = (ReceiverBase) channel.getChannelReceiver();
        receiver.setAddress(listen.substring(0, colon));
        receiver.setPort(Integer.parseInt(listen.substring(colon + 1)));
        receiver.setAutoBind(100);
        McastService mcast = new McastService();
        String group = flag(args, "--group", "228.0.0.4:45564");
        colon = group.lastIndexOf(':');
        mcast.setAddress(group.substring(0, colon));
        mcast.setPort(Integer.parseInt(group.substring(colon + 1)));
        mcast.setBind("127.0.0.1");
        channel.setMembershipService(mcast);
        channel.addInterceptor(new MessageDispatchInterceptor());
        channel.addInterceptor(new TcpFailureDetector());
        channel.start(Channel.DEFAULT);
        print("{\"event\":\"waiting\"}");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null && !line.equals("quit"); line = in.readLine()) {
            String[] words = line.trim().split(" ");
            long[] numbers = Arrays.stream(words).skip(1).mapToLong(Long::parseLong).toArray();
            switch (words[0]) {
                case "join": join((int) numbers[0]); break;
                case "fill": fill((int) numbers[0], (int) numbers[2]); break;
                case "commit": new Round((int) numbers[1], (int) numbers[2]).run(numbers[0], 0).print(); break;
                case "load": load(numbers[0], (int) numbers[1], (int) numbers[2]); break;
                case "read": read(numbers[0]); break;
                case "missing": missing(numbers[0], numbers[1]); break;
                case "count": print("{\"event\":\"count\",\"count\":%d,\"members\":%d,\"troubles\":%d}",
                        map.sizeFull(), map.getMapMembers().length, Troubles.COUNT.get()); break;
                default: System.err.println("no command " + line);
            }
        }
        channel.stop(Channel.DEFAULT);
    }

    private void join(int others) throws InterruptedException {
        while (channel.getMembers().length < others) {
            Thread.sleep(10);
        }
        long start = System.nanoTime();
        ClassLoader[] loaders = {MapsBench.class.getClassLoader()};
        map = lazy ? new LazyReplicatedMap<>(null, channel, RPC_TIMEOUT, "bench", loaders)
                : new ReplicatedMap<>(null, channel, RPC_TIMEOUT, "bench", loaders);
        map.setChannelSendOptions(options);
        double seconds = (System.nanoTime() - start) / 1e9;
        print("{\"event\":\"ready\",\"seconds\":%.6f,\"count\":%d}", seconds, map.sizeFull());
    }

    /** One thread: the maps are no faster with several. */
    private void fill(int count, int size) {
        long start = System.nanoTime();
        for (int i = 0; i < count; i++) {
            String key = prefix + keys.size();
            map.put(key, value(size, sequence++));
            keys.add(key);
        }
        print("{\"event\":\"filled\",\"seconds\":%.6f}", (System.nanoTime() - start) / 1e9);
    }

    private static byte[] value(int size, long number) {
        byte[] value = new byte[size];
        ByteBuffer.wrap(value).putLong(0, number);
        return value;
    }

    private void load(long millis, int threads, int size) {
        print("{\"event\":\"started\"}");
        new Thread(() -> new Round(threads, size).run(0, millis).print()).start();
    }

    private void read(long count) {
        long start = System.nanoTime();
        long found = 0;
        for (long i = 0; i < count; i++) {
            byte[] value = map.get(keys.get((int) (i % keys.size())));
            found += value != null && value.length > 0 ? 1 : 0;
        }
        print("{\"event\":\"reads\",\"seconds\":%.9f,\"found\":%d}", (System.nanoTime() - start) / 1e9, found);
    }

    /** Looks at the entries themselves: a get would make this node their owner. */
    private void missing(long count, long from) {
        long present = 0;
        for (Map.Entry<String, MapEntry<String, byte[]>> entry : map.entrySetFull()) {
            byte[] value = entry.getValue().getValue();
            if (value != null && ByteBuffer.wrap(value).getLong(0) >= from) {
                present++;
            }
        }
        print("{\"event\":\"missing\",\"missing\":%d,\"troubles\":%d}", count - present, Troubles.COUNT.get());
    }

    /** Commits from several threads. */
    private final class Round {
        final int threads;
        final int size;
        final List<long[]> times = new ArrayList<>();
        final long troubles = Troubles.COUNT.get();
        long failed;
        double seconds;

        Round(int threads, int size) {
            this.threads = threads;
            this.size = size;
        }

        /** As many, or, if that is 0, as long. */
        Round run(long count, long millis) {
            long base = sequence;
            long start = System.nanoTime();
            List<Thread> workers = new ArrayList<>();
            for (int t = 0; t < threads; t++) {
                int first = t;
                Thread worker = new Thread(() -> work(first, base, count, start + millis * 1_000_000));
                worker.start();
                workers.add(worker);
            }
            try {
                for (Thread worker : workers) {
                    worker.join();
                }
            } catch (InterruptedException problem) {
                throw new IllegalStateException(problem);
            }
            seconds = (System.nanoTime() - start) / 1e9;
            sequence = base + count;
            return this;
        }

        /** The commits number first, first + threads, and so on, so that no two threads have an entry in common. */
        void work(int first, long base, long count, long end) {
            int room = (int) (count > 0 ? count / threads + 1 : 1_000_000);
            long[] mine = new long[room];
            int done = 0;
            long failures = 0;
            for (long i = first; (count > 0 ? i < count : System.nanoTime() < end) && done < room; i += threads) {
                String key = keys.get((int) (i % keys.size()));
                long start = System.nanoTime();
                try {
                    if (lazy) {
                        // As an application changes an attribute: the map does not see it.
                        byte[] value = map.getInternal(key).getValue();
                        ByteBuffer.wrap(value).putLong(0, base + i);
                        map.replicate(key, true);
                    } else {
                        map.put(key, value(size, base + i));
                    }
                } catch (RuntimeException problem) {
                    failures++;
                }
                mine[done++] = System.nanoTime() - start;
                if (count == 0) {
                    try {
                        Thread.sleep(2);
                    } catch (InterruptedException problem) {
                        break;
                    }
                }
            }
            synchronized (this) {
                times.add(Arrays.copyOf(mine, done));
                failed += failures;
            }
        }

        void print() {
            long[] all = times.stream().flatMapToLong(Arrays::stream).sorted().toArray();
            int last = all.length - 1;
            MapsBench.print("{\"event\":\"round\",\"count\":%d,\"seconds\":%.6f,\"p50_ns\":%d,\"p99_ns\":%d,\"p999_ns\":%d,"
                    + "\"max_ns\":%d,\"failed\":%d,\"error\":\"\"}", all.length, seconds, at(all, 0.5), at(all, 0.99),
                    at(all, 0.999), all[last], failed + Troubles.COUNT.get() - troubles);
        }

        private long at(long[] all, double part) {
            return all[Math.min(all.length - 1, (int) (part * all.length))];
        }
    }
}
