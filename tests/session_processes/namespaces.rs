//! Members in network namespaces of their own, whose links are cut and healed. Needs root and the command `ip`.

use std::path::Path;
use std::process::Command;

use crate::node::{Group, Node, meet};

const MEMBERS: u16 = 3;

#[test]
fn both_sides_of_a_partition_go_on_and_become_one_again() {
    for (manager, cut) in [("delta", Cut::Port), ("backup1", Cut::Port), ("backup1", Cut::Link)] {
        let Some(network) = Network::build() else { return };
        let group = Group::new(manager);
        let start = |number| network.start(&group, number);
        let nodes: Vec<_> = (0..MEMBERS).map(start).collect();
        nodes.iter().for_each(Node::wait_ready);
        let [a, b, c] = &nodes[..] else { unreachable!("three were started") };
        meet(&[a, b, c]);
        let ids: Vec<_> = (0..30).map(|number| nodes[number % 3].create("cart=0")).collect();
        nodes.iter().for_each(Node::wait_settled);

        network.cut(2, cut);
        meet(&[a, b]);
        meet(&[c]);
        // Each side creates sessions of its own, and changes other attributes of the old ones; of some, the same.
        let (ours, theirs) = (a.create("side=majority"), c.create("side=minority"));
        let known: Vec<_> = ids.iter().filter(|id| c.get(id, "cart") == "0").collect();
        assert!(!known.is_empty(), "who is alone has what it held");
        for id in &ids {
            a.set(id, "majority", "1", 1);
        }
        for id in &known {
            c.set(id, "minority", "1", 0);
        }
        let (both, removed) = (known[0], known[known.len() - 1]);
        a.set(both, "cart", "1", 1);
        c.set(both, "cart", "2", 0);
        b.ask(&format!("invalidate {removed}"));
        c.set(removed, "cart", "3", 0);

        network.heal(2, cut);
        meet(&[a, b, c]);
        for node in &nodes {
            node.wait_for(&ours, "side", "majority");
            node.wait_for(&theirs, "side", "minority");
            node.wait_for(removed, "cart", "gone");
            for id in ids.iter().filter(|id| *id != removed) {
                node.wait_for(id, "majority", "1");
            }
            for id in known.iter().filter(|id| **id != removed) {
                node.wait_for(id, "minority", "1");
            }
        }
        // One of two writes at the same moment wins, the same everywhere; that there was another is counted where they met.
        a.poll("all agree", || {
            (b.get(both, "cart") == a.get(both, "cart") && c.get(both, "cart") == a.get(both, "cart")).then_some(())
        });
        assert!(["1", "2"].contains(&&*a.get(both, "cart")));
        nodes.iter().for_each(Node::wait_settled);
        let conflicts: u64 = nodes.iter().map(|node| node.statistic("conflicts")).sum();
        assert!(conflicts >= 1, "{manager}: the lost write is reported");
    }
}

/// How a member is cut off.
#[derive(Clone, Copy)]
enum Cut {
    /// Its cable is pulled: the interface knows.
    Link,
    /// The switch forgets it: nobody knows.
    Port,
}

/// A bridge, and members with a cable to it, each in a namespace. Taken down when dropped, also by a panic.
struct Network {
    /// The namespaces begin so.
    name: String,
}

impl Network {
    /// None, with a word about it, where this cannot be.
    fn build() -> Option<Self> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let nth = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let network = Self { name: format!("tribes-{}-{nth}", std::process::id()) };
        remove_forgotten();
        let hub = network.hub();
        if let Err(problem) = ip(&format!("netns add {hub}")) {
            eprintln!("skipped: no network namespaces here, they need root and `ip`: {problem}");
            return None;
        }
        let must = |arguments: String| ip(&arguments).unwrap_or_else(|problem| panic!("ip {arguments}: {problem}"));
        // Without snooping, a bridge sends multicast everywhere.
        must(format!("-n {hub} link add bridge type bridge mcast_snooping 0 forward_delay 0"));
        must(format!("-n {hub} link set bridge up"));
        for number in 0..MEMBERS {
            let member = network.member(number);
            must(format!("netns add {member}"));
            must(format!("-n {hub} link add port{number} type veth peer name wire netns {member}"));
            must(format!("-n {hub} link set port{number} master bridge up"));
            must(format!("-n {member} link set lo up"));
            must(format!("-n {member} address add {}/24 dev wire", address(number)));
            must(format!("-n {member} link set wire up"));
            must(format!("-n {member} route add 224.0.0.0/4 dev wire"));
        }
        Some(network)
    }

    fn start(&self, group: &Group, number: u16) -> Node {
        group.within(&self.member(number)).start_at(number, &address(number))
    }

    fn cut(&self, number: u16, cut: Cut) {
        self.set(number, if let Cut::Link = cut { "down" } else { "nomaster" });
    }

    fn heal(&self, number: u16, cut: Cut) {
        self.set(number, if let Cut::Link = cut { "up" } else { "master bridge" });
    }

    fn set(&self, number: u16, what: &str) {
        ip(&format!("-n {} link set port{number} {what}", self.hub())).expect("the port is there");
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn member(&self, number: u16) -> String {
        format!("{}-{number}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The members' processes have ended by now; with a namespace goes what is in it.
        let members = (0..MEMBERS).map(|number| self.member(number));
        for namespace in members.chain([self.hub()]) {
            let _ = ip(&format!("netns delete {namespace}"));
        }
    }
}

/// Removes what tests have left behind that were killed.
fn remove_forgotten() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let process = name.strip_prefix("tribes-").and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists()) {
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

fn address(number: u16) -> String {
    format!("10.77.0.{}", number + 1)
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
