//! Every transport of the crate against the suite that third parties run.

use tribes::testing::conformance::transport::{Profile, check};
use tribes::transport::memory::Network;

#[test]
fn memory() {
    let network = Network::new(1);
    check(&Profile::stream(), || {
        let (receiver, sender) = network.endpoint("10.0.0.1:0".parse().expect("an address"));
        (Box::new(receiver), Box::new(sender))
    });
}
