//! The command line.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

pub(crate) const HELP: &str = "\
One member of a Tribes group: shows who comes and goes and what is sent, and sends what you type.

  --group ADDR:PORT      multicast group (228.0.0.4:45564, as Tomcat's)
  --interface ADDR       multicast through the interface with this address, and listen there
  --listen ADDR:PORT     receive here, or at the first free port of the 100 from there on (port 4000)
  --udp-port N           also receive datagrams, for options udp (0x20)
  --domain D             tell the group this domain
  --payload P            tell the group this payload
  --member HOST:PORT     a static member, instead of multicast; repeatable
  --timeout MS           how long a member may be silent while it owes an answer (3000)
  --observe              see the group without being seen
  --json                 one JSON object a line
  --fail-on PREFIX       fail on messages that begin with this text, so that their senders see it

Then, on standard input:
  members                            who is there
  send OPTIONS TEXT                  to all
  to HOST:PORT OPTIONS TEXT          to one
  blast OPTIONS SIZE COUNT [THREADS] many, numbered and with a body that can be checked
  payload TEXT, domain TEXT          change what the group is told
  stats                              what was received and sent
  quit                               say goodbye (end of input does too)
OPTIONS are names joined by commas (use_ack, sync, async, udp, multicast) or the number: 0 no acknowledgement, 2 acknowledged,
6 handled by the listeners, +8 queued, 32 by UDP, 64 by multicast.
";

pub(crate) struct Flags {
    pub(crate) group: SocketAddr,
    pub(crate) interface: Option<IpAddr>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) udp_port: Option<u16>,
    pub(crate) domain: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) members: Vec<SocketAddr>,
    pub(crate) timeout: Duration,
    pub(crate) observe: bool,
    pub(crate) json: bool,
    pub(crate) fail_on: Option<String>,
    pub(crate) help: bool,
}

impl Flags {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut flags = Self {
            group: SocketAddr::from(([228, 0, 0, 4], 45564)),
            interface: None,
            listen: None,
            udp_port: None,
            domain: Vec::new(),
            payload: Vec::new(),
            members: Vec::new(),
            timeout: Duration::from_secs(3),
            observe: false,
            json: false,
            fail_on: None,
            help: false,
        };
        while let Some(flag) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{flag} needs a value"));
            match flag.as_str() {
                "--group" => flags.group = address(&value()?)?,
                "--interface" => flags.interface = Some(parsed(&value()?)?),
                "--listen" => flags.listen = Some(address(&value()?)?),
                "--udp-port" => flags.udp_port = Some(parsed(&value()?)?),
                "--domain" => flags.domain = latin(&value()?),
                "--payload" => flags.payload = latin(&value()?),
                "--member" => flags.members.push(address(&value()?)?),
                "--timeout" => flags.timeout = Duration::from_millis(parsed(&value()?)?),
                "--observe" => flags.observe = true,
                "--json" => flags.json = true,
                "--fail-on" => flags.fail_on = Some(value()?),
                "--help" | "-h" => flags.help = true,
                unknown => return Err(format!("unknown flag {unknown}; --help lists them")),
            }
        }
        Ok(flags)
    }

    /// Where to receive: what was said, or else the interface, or else whatever the receiver finds.
    pub(crate) fn listen_address(&self) -> Option<SocketAddr> {
        self.listen.or_else(|| Some(SocketAddr::new(self.interface?, 4000)))
    }
}

/// A host name or address with a port.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|problem| format!("{text}: {problem}"))?;
    found.next().ok_or_else(|| format!("{text} has no address"))
}

/// Text as Tomcat puts it into domain and payload: a byte a character, ISO-8859-1.
pub(crate) fn latin(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(char).unwrap_or(b'?')).collect()
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|problem| format!("{text}: {problem}"))
}
