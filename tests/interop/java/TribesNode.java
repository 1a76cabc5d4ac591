// A node on Apache Tribes, driven by lines on standard input, that reports one
// JSON object per line on standard output. It is the peer of the interop suite.
//
//   CP=/usr/share/java/tomcat10-tribes.jar:/usr/share/java/tomcat10-juli.jar
//   javac -cp $CP -d target/java tests/interop/java/TribesNode.java
//   java -cp $CP:target/java TribesNode --group 228.0.0.4:45564 --interface 127.0.0.1

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.Serializable;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import java.util.logging.Level;
import java.util.logging.Logger;
import java.util.zip.CRC32;

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
import org.apache.catalina.tribes.group.interceptors.StaticMembershipInterceptor;
import org.apache.catalina.tribes.group.interceptors.TcpFailureDetector;
import org.apache.catalina.tribes.membership.McastService;
import org.apache.catalina.tribes.membership.MemberImpl;
import org.apache.catalina.tribes.membership.StaticMember;
import org.apache.catalina.tribes.transport.AbstractSender;
import org.apache.catalina.tribes.transport.ReceiverBase;
import org.apache.catalina.tribes.transport.ReplicationTransmitter;

public class TribesNode {

    // ------------------------------------------------------------------ output

    /** Line output. Single lines are flushed at once, a flood of them every few milliseconds. */
    static final class Out {
        private static final int FLOOD = 200;
        private static final long WINDOW_NS = 1_000_000_000L;
        private final OutputStream sink;
        private final byte[] buffer = new byte[1 << 16];
        private int used;
        private long windowStart = System.nanoTime();
        private int inWindow;

        Out(OutputStream sink) {
            this.sink = sink;
            Thread flusher = new Thread(() -> {
                try {
                    while (true) {
                        Thread.sleep(10);
                        flush();
                    }
                } catch (InterruptedException stop) {
                    // the process is going down
                }
            }, "flusher");
            flusher.setDaemon(true);
            flusher.start();
        }

        synchronized void line(String text) {
            put(text);
            flush();
        }

        /** For lines that may come by the thousand. */
        synchronized void frequent(String text) {
            put(text);
            long now = System.nanoTime();
            if (now - windowStart > WINDOW_NS) {
                windowStart = now;
                inWindow = 0;
            }
            if (++inWindow <= FLOOD) {
                flush();
            }
        }

        private void put(String text) {
            byte[] bytes = (text + "\n").getBytes(StandardCharsets.UTF_8);
            if (bytes.length > buffer.length - used) {
                flush();
            }
            if (bytes.length > buffer.length) {
                write(bytes, bytes.length);
            } else {
                System.arraycopy(bytes, 0, buffer, used, bytes.length);
                used += bytes.length;
            }
        }

        synchronized void flush() {
            if (used > 0) {
                int count = used;
                used = 0;
                write(buffer, count);
            }
        }

        private void write(byte[] bytes, int count) {
            try {
                sink.write(bytes, 0, count);
                sink.flush();
            } catch (IOException gone) {
                Runtime.getRuntime().halt(2); // nobody reads us any more
            }
        }
    }

    /** Writes the fields of one JSON object. */
    static final class Json {
        private final StringBuilder text = new StringBuilder("{");

        Json event(String name) {
            return put("event", name);
        }

        private Json key(String name) {
            if (text.charAt(text.length() - 1) != '{') {
                text.append(',');
            }
            text.append('"').append(name).append("\":");
            return this;
        }

        Json put(String name, String value) {
            key(name);
            quote(text, value);
            return this;
        }

        Json put(String name, long value) {
            key(name).text.append(value);
            return this;
        }

        Json put(String name, boolean value) {
            key(name).text.append(value);
            return this;
        }

        Json raw(String name, String json) {
            key(name).text.append(json);
            return this;
        }

        Json member(Member m) {
            put("host", host(m)).put("port", m.getPort()).put("id", hex(m.getUniqueId()));
            put("domain", latin(m.getDomain())).put("payload", latin(m.getPayload()));
            return put("udp_port", m.getUdpPort());
        }

        String end() {
            return text.append('}').toString();
        }

        static void quote(StringBuilder to, String value) {
            to.append('"');
            for (int i = 0; i < value.length(); i++) {
                char c = value.charAt(i);
                if (c == '"' || c == '\\') {
                    to.append('\\').append(c);
                } else if (c < 0x20 || c == 0x7f) {
                    to.append(String.format("\\u%04x", (int) c));
                } else {
                    to.append(c);
                }
            }
            to.append('"');
        }
    }

    private static final char[] DIGITS = "0123456789abcdef".toCharArray();

    static String hex(byte[] bytes) {
        if (bytes == null) {
            return "";
        }
        char[] out = new char[bytes.length * 2];
        for (int i = 0; i < bytes.length; i++) {
            out[2 * i] = DIGITS[(bytes[i] >> 4) & 15];
            out[2 * i + 1] = DIGITS[bytes[i] & 15];
        }
        return new String(out);
    }

    static byte[] unhex(String text) {
        if (text.length() % 2 != 0) {
            throw new IllegalArgumentException("odd number of hex digits: " + text);
        }
        byte[] out = new byte[text.length() / 2];
        for (int i = 0; i < out.length; i++) {
            out[i] = (byte) Integer.parseInt(text.substring(2 * i, 2 * i + 2), 16);
        }
        return out;
    }

    static String hex32(long value) {
        return String.format("%08x", value & 0xffffffffL);
    }

    static String latin(byte[] bytes) {
        return bytes == null ? "" : new String(bytes, StandardCharsets.ISO_8859_1);
    }

    static String host(Member m) {
        try {
            return shortest(InetAddress.getByAddress(m.getHost()).getHostAddress());
        } catch (Exception odd) {
            return hex(m.getHost());
        }
    }

    /** An IPv6 address in its usual form: the longest run of zero groups becomes two colons. */
    static String shortest(String address) {
        if (address.indexOf(':') < 0) {
            return address;
        }
        String framed = ":" + address + ":";
        for (int groups = 8; groups >= 2; groups--) {
            String zeros = "0:".repeat(groups);
            int at = framed.indexOf(":" + zeros);
            if (at >= 0) {
                String before = at == 0 ? "" : framed.substring(1, at);
                String after = framed.substring(at + 1 + zeros.length());
                return before + "::" + (after.isEmpty() ? "" : after.substring(0, after.length() - 1));
            }
        }
        return address;
    }

    static String memberJson(Member m) {
        return new Json().member(m).end();
    }

    /** The body as text if it is at most 200 bytes of UTF-8 without control characters, else null. */
    static String shortText(byte[] body) {
        if (body.length > 200) {
            return null;
        }
        String text;
        try {
            text = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(body)).toString();
        } catch (CharacterCodingException notText) {
            return null;
        }
        return text.codePoints().anyMatch(Character::isISOControl) ? null : text;
    }

    /**
     * Body of a blast message: the sequence number as 8 bytes (only if there is room), then the
     * words of a 64 bit xorshift generator (13, 7, 17) that starts from sequence + 1, all of it
     * big-endian, the last word cut off.
     */
    static byte[] blastBody(long sequence, int size) {
        byte[] body = new byte[size];
        int at = 0;
        if (size >= 8) {
            for (; at < 8; at++) {
                body[at] = (byte) (sequence >>> (56 - 8 * at));
            }
        }
        long state = sequence + 1;
        while (at < size) {
            state ^= state << 13;
            state ^= state >>> 7;
            state ^= state << 17;
            for (int shift = 56; shift >= 0 && at < size; shift -= 8) {
                body[at++] = (byte) (state >>> shift);
            }
        }
        return body;
    }

    // -------------------------------------------------------------- interceptors

    /** Top of the stack: remembers the message around the call of the listeners. */
    static final class Top extends ChannelInterceptorBase {
        static final ThreadLocal<ChannelMessage> CURRENT = new ThreadLocal<>();

        @Override
        public void messageReceived(ChannelMessage message) {
            CURRENT.set(message);
            try {
                super.messageReceived(message);
            } finally {
                CURRENT.remove();
            }
        }
    }

    /**
     * Below the dispatcher: notices that a message left on the thread of the caller. The
     * dispatcher calls the error handler only for what it had queued, not for what it passed on
     * because its queue was full.
     */
    static final class Below extends ChannelInterceptorBase {
        static final ThreadLocal<boolean[]> INLINE = ThreadLocal.withInitial(() -> new boolean[1]);

        @Override
        public void sendMessage(Member[] to, ChannelMessage message, InterceptorPayload payload) throws ChannelException {
            INLINE.get()[0] = true;
            super.sendMessage(to, message, payload);
        }
    }

    // ---------------------------------------------------------------- the node

    private final Out out = new Out(System.out);
    private final GroupChannel channel = new GroupChannel();
    private final McastService mcast = new McastService();
    private String throwOn = "throw";
    private int startLevel = Channel.DEFAULT;

    private final AtomicLong received = new AtomicLong();
    private final AtomicLong receivedBytes = new AtomicLong();
    private final AtomicLong crcXor = new AtomicLong();
    private final Set<UniqueId> distinct = ConcurrentHashMap.newKeySet();

    public static void main(String[] args) throws Exception {
        ipv4Only(args);
        Logger.getLogger("").setLevel(Level.WARNING);
        TribesNode node = new TribesNode();
        try {
            node.configure(args);
            node.channel.start(node.startLevel);
        } catch (Throwable problem) {
            node.error(problem);
            System.exit(1);
        }
        node.out.line(new Json().event("started").member(node.channel.getLocalMember(false)).end());
        node.commands();
        node.channel.stop(Channel.DEFAULT);
        node.out.line(new Json().event("stopped").end());
        System.exit(0);
    }

    /**
     * With --interface Tribes binds its multicast socket to the group address. On a dual stack
     * socket Linux then refuses every send with EINVAL, so without an IPv6 address on the command
     * line the process keeps to IPv4. Must run before the first use of a network class.
     */
    private static void ipv4Only(String[] args) {
        if (System.getProperty("java.net.preferIPv4Stack") != null) {
            return;
        }
        for (int i = 1; i < args.length; i++) {
            boolean address = Set.of("--group", "--interface", "--listen", "--member").contains(args[i - 1]);
            if (address && (args[i].startsWith("[") || args[i].contains("::"))) {
                return;
            }
        }
        System.setProperty("java.net.preferIPv4Stack", "true");
    }

    private void configure(String[] args) throws Exception {
        String group = "228.0.0.4:45564";
        String bind = null;
        String listen = "127.0.0.1:4000";
        String domain = "";
        String payload = "";
        int udpPort = -1;
        int ttl = -1;
        long frequency = -1;
        long dropTime = -1;
        long timeout = -1;
        int keepAliveCount = -1;
        String uid = null;
        boolean dispatch = true;
        boolean detector = true;
        List<StaticMember> fixed = new ArrayList<>();
        for (int i = 0; i < args.length; i++) {
            switch (args[i]) {
                case "--group": group = args[++i]; break;
                case "--interface": bind = args[++i]; break;
                case "--listen": listen = args[++i]; break;
                case "--udp-port": udpPort = Integer.parseInt(args[++i]); break;
                case "--domain": domain = args[++i]; break;
                case "--payload": payload = args[++i]; break;
                case "--member": fixed.add(staticMember(args[++i])); break;
                case "--observe": startLevel = Channel.SND_RX_SEQ | Channel.SND_TX_SEQ | Channel.MBR_RX_SEQ; break;
                case "--no-multicast": startLevel = Channel.SND_RX_SEQ | Channel.SND_TX_SEQ; break;
                case "--json": break;
                case "--ttl": ttl = Integer.parseInt(args[++i]); break;
                case "--no-dispatch": dispatch = false; break;
                case "--no-detector": detector = false; break;
                case "--frequency": frequency = Long.parseLong(args[++i]); break;
                case "--drop-time": dropTime = Long.parseLong(args[++i]); break;
                case "--timeout": timeout = Long.parseLong(args[++i]); break;
                case "--keep-alive-count": keepAliveCount = Integer.parseInt(args[++i]); break;
                case "--uid": uid = args[++i]; break;
                case "--throw-on": throwOn = args[++i]; break;
                case "--verbose": Logger.getLogger("").setLevel(Level.INFO); break;
                default: throw new IllegalArgumentException("unknown flag " + args[i]);
            }
        }

        int colon = group.lastIndexOf(':');
        mcast.setAddress(group.substring(0, colon));
        mcast.setPort(Integer.parseInt(group.substring(colon + 1)));
        if (bind != null) {
            mcast.setBind(bind);
        }
        if (ttl >= 0) {
            mcast.setTtl(ttl);
        }
        if (frequency >= 0) {
            mcast.setFrequency(frequency);
        }
        if (dropTime >= 0) {
            mcast.setDropTime(dropTime);
        }
        if (!domain.isEmpty()) {
            mcast.setDomain(domain.getBytes(StandardCharsets.ISO_8859_1));
        }
        if (!payload.isEmpty()) {
            mcast.setPayload(payload.getBytes(StandardCharsets.ISO_8859_1));
        }
        channel.setMembershipService(mcast);

        ReceiverBase receiver = (ReceiverBase) channel.getChannelReceiver();
        colon = listen.lastIndexOf(':');
        receiver.setAddress(unbracket(listen.substring(0, colon)));
        receiver.setPort(Integer.parseInt(listen.substring(colon + 1)));
        receiver.setAutoBind(100);
        if (uid != null) {
            // made early, the local member keeps its id when the channel fills in the rest
            mcast.setLocalMemberProperties(receiver.getAddress(), receiver.getPort(), -1, udpPort);
            ((MemberImpl) mcast.getLocalMember(false)).setUniqueId(unhex(uid));
        }
        if (udpPort > 0) {
            receiver.setUdpPort(udpPort);
        }
        AbstractSender sender = (AbstractSender) ((ReplicationTransmitter) channel.getChannelSender()).getTransport();
        if (timeout >= 0) {
            sender.setTimeout(timeout);
        }
        // 0 closes each connection after one message, which also lets UDP follow TCP to a member
        sender.setKeepAliveCount(keepAliveCount);

        // two interceptors of our own: the channel adds a dispatcher by itself to an empty stack only
        channel.addInterceptor(new Top());
        if (dispatch) {
            channel.addInterceptor(new MessageDispatchInterceptor());
        }
        channel.addInterceptor(new Below());
        if (detector) {
            channel.addInterceptor(new TcpFailureDetector());
        }
        if (!fixed.isEmpty()) {
            StaticMembershipInterceptor list = new StaticMembershipInterceptor();
            for (StaticMember member : fixed) {
                list.addStaticMember(member);
            }
            channel.addInterceptor(list);
        }

        channel.addMembershipListener(new MembershipListener() {
            @Override
            public void memberAdded(Member m) {
                out.line(new Json().event("member_added").member(m).end());
            }

            @Override
            public void memberDisappeared(Member m) {
                out.line(new Json().event("member_removed").member(m).end());
            }
        });
        channel.addChannelListener(new ChannelListener() {
            @Override
            public boolean accept(Serializable message, Member sender) {
                return true;
            }

            @Override
            public void messageReceived(Serializable message, Member sender) {
                arrived(message, sender);
            }
        });
    }

    private static String unbracket(String host) {
        return host.startsWith("[") ? host.substring(1, host.length() - 1) : host;
    }

    private static StaticMember staticMember(String text) throws IOException {
        int second = text.lastIndexOf(':');
        int first = text.lastIndexOf(':', second - 1);
        StaticMember member = new StaticMember(unbracket(text.substring(0, first)),
                Integer.parseInt(text.substring(first + 1, second)), 0);
        member.setUniqueId(unhex(text.substring(second + 1)));
        return member;
    }

    // ---------------------------------------------------------------- receiving

    private void arrived(Serializable object, Member sender) {
        ChannelMessage message = Top.CURRENT.get();
        Json json = new Json().event("message").raw("from", memberJson(sender));
        byte[] id = null;
        if (message != null) {
            id = message.getUniqueId();
            json.put("options", message.getOptions()).put("id", hex(id));
        }
        if (!(object instanceof ByteMessage)) {
            received.incrementAndGet();
            out.frequent(json.put("object", object == null ? "null" : object.getClass().getName()).end());
            return;
        }
        byte[] body = ((ByteMessage) object).getMessage();
        CRC32 crc = new CRC32();
        crc.update(body);
        long value = crc.getValue();
        received.incrementAndGet();
        receivedBytes.addAndGet(body.length);
        crcXor.accumulateAndGet(value, (a, b) -> a ^ b);
        if (id != null) {
            distinct.add(new UniqueId(id));
        }
        String text = shortText(body);
        json.put("len", body.length).put("crc32", hex32(value));
        if (text != null) {
            json.put("text", text);
        }
        boolean fail = text != null && text.startsWith(throwOn);
        if (fail) {
            json.put("threw", true);
        }
        out.frequent(json.end());
        if (fail) {
            throw new RuntimeException("told to throw by the message");
        }
    }

    // ---------------------------------------------------------------- commands

    private void commands() throws IOException {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            if (line.isBlank()) {
                continue;
            }
            try {
                if (!command(line)) {
                    return;
                }
            } catch (Exception problem) {
                error(problem);
            }
        }
    }

    /** The first words of the line, at most count of them, and the rest as the last element. */
    private static String[] words(String line, int count) {
        String[] parts = line.split(" ", count + 1);
        String[] all = new String[count + 1];
        for (int i = 0; i <= count; i++) {
            all[i] = i < parts.length ? parts[i] : "";
        }
        return all;
    }

    private boolean command(String line) throws Exception {
        String name = words(line, 1)[0].trim();
        switch (name) {
            case "members": {
                StringBuilder list = new StringBuilder("[");
                for (Member m : channel.getMembers()) {
                    list.append(list.length() > 1 ? "," : "").append(memberJson(m));
                }
                out.line(new Json().event("members").raw("members", list.append(']').toString()).end());
                return true;
            }
            case "send": {
                String[] w = words(line, 2);
                int options = Channel.parseSendOptions(w[1]);
                send(everybody(options), options, w[2].getBytes(StandardCharsets.UTF_8));
                return true;
            }
            case "to": {
                String[] w = words(line, 3);
                int options = Channel.parseSendOptions(w[2]);
                Member target = find(w[1]);
                if (target == null) {
                    failed(options, new ChannelException("no member at " + w[1]), null);
                } else {
                    send(new Member[] { target }, options, w[3].getBytes(StandardCharsets.UTF_8));
                }
                return true;
            }
            case "blast": {
                String[] w = line.trim().split(" +");
                blast(Channel.parseSendOptions(w[1]), Integer.parseInt(w[2]), Integer.parseInt(w[3]),
                        w.length > 4 ? Integer.parseInt(w[4]) : 1);
                return true;
            }
            case "payload":
                mcast.setPayload(words(line, 1)[1].getBytes(StandardCharsets.ISO_8859_1));
                return true;
            case "domain":
                mcast.setDomain(words(line, 1)[1].getBytes(StandardCharsets.ISO_8859_1));
                return true;
            case "stats":
                out.line(new Json().event("stats").put("received", received.get()).put("bytes", receivedBytes.get())
                        .put("crc_xor", hex32(crcXor.get())).put("distinct", distinct.size()).end());
                return true;
            case "quit":
                return false;
            default:
                throw new IllegalArgumentException("unknown command " + name);
        }
    }

    /** All members. A multicast goes out without any too, but the channel wants some destination. */
    private Member[] everybody(int options) {
        Member[] all = channel.getMembers();
        if (all.length == 0 && (options & Channel.SEND_OPTIONS_MULTICAST) != 0) {
            return new Member[] { channel.getLocalMember(false) };
        }
        return all;
    }

    private Member find(String address) {
        int colon = address.lastIndexOf(':');
        String host = unbracket(address.substring(0, colon));
        int port = Integer.parseInt(address.substring(colon + 1));
        for (Member m : channel.getMembers()) {
            if (m.getPort() == port && host(m).equals(host)) {
                return m;
            }
        }
        return null;
    }

    /** Told exactly once how one message ended. */
    interface Ending {
        void ended(UniqueId id, ChannelException problem);
    }

    /** Sends one message; the ending comes on this thread, or on one of the dispatcher if queued. */
    private void transmit(Member[] to, byte[] body, int options, Ending ending) {
        boolean[] inline = Below.INLINE.get();
        inline[0] = false;
        boolean queueable = (options & Channel.SEND_OPTIONS_ASYNCHRONOUS) != 0;
        try {
            UniqueId id;
            if (queueable) {
                id = channel.send(to, new ByteMessage(body), options, new ErrorHandler() {
                    @Override
                    public void handleError(ChannelException problem, UniqueId of) {
                        ending.ended(of, problem);
                    }

                    @Override
                    public void handleCompletion(UniqueId of) {
                        ending.ended(of, null);
                    }
                });
            } else {
                id = channel.send(to, new ByteMessage(body), options);
            }
            if (!queueable || inline[0]) {
                ending.ended(id, null);
            }
        } catch (ChannelException problem) {
            ending.ended(null, problem);
        } catch (RuntimeException problem) {
            ending.ended(null, new ChannelException(problem));
        }
    }

    private void send(Member[] to, int options, byte[] body) {
        long start = System.nanoTime();
        transmit(to, body, options, (id, problem) -> {
            if (problem != null) {
                failed(options, problem, id);
                return;
            }
            out.line(new Json().event("sent").put("options", options).put("count", 1)
                    .put("ms", (System.nanoTime() - start) / 1_000_000).put("destinations", to.length)
                    .put("id", id == null ? "" : hex(id.getBytes())).end());
        });
    }

    private void blast(int options, int size, int count, int threads) throws InterruptedException {
        Member[] to = everybody(options);
        CountDownLatch open = new CountDownLatch(count);
        AtomicLong failed = new AtomicLong();
        AtomicReference<ChannelException> first = new AtomicReference<>();
        Ending ending = (id, problem) -> {
            if (problem != null) {
                failed.incrementAndGet();
                first.compareAndSet(null, problem);
            }
            open.countDown();
        };
        long start = System.nanoTime();
        for (int t = 0; t < threads; t++) {
            int offset = t;
            new Thread(() -> {
                for (long sequence = offset; sequence < count; sequence += threads) {
                    transmit(to, blastBody(sequence, size), options, ending);
                }
            }, "blast-" + t).start();
        }
        open.await();
        Json json = new Json().event("sent").put("options", options).put("count", count)
                .put("failed", failed.get()).put("ms", (System.nanoTime() - start) / 1_000_000)
                .put("destinations", to.length);
        if (first.get() != null) {
            json.put("error", String.valueOf(first.get().getMessage()));
            json.raw("faulty", faulty(first.get()));
        }
        out.line(json.end());
    }

    private static String faulty(ChannelException problem) {
        StringBuilder list = new StringBuilder("[");
        for (ChannelException.FaultyMember f : problem.getFaultyMembers()) {
            Member m = f.getMember();
            list.append(list.length() > 1 ? "," : "").append(new Json().put("host", host(m)).put("port", m.getPort())
                    .put("id", hex(m.getUniqueId())).put("cause", String.valueOf(f.getCause())).end());
        }
        return list.append(']').toString();
    }

    private void failed(int options, ChannelException problem, UniqueId id) {
        Json json = new Json().event("failed").put("options", options).raw("faulty", faulty(problem))
                .put("error", String.valueOf(problem.getMessage()));
        if (id != null) {
            json.put("id", hex(id.getBytes()));
        }
        out.line(json.end());
    }

    private void error(Throwable problem) {
        out.line(new Json().event("error").put("error", String.valueOf(problem)).end());
    }
}
