//! Sessions in real processes: members that are killed, stopped for a while, cut off, drained and started again, and what
//! others find of what was confirmed. This executable is also the member: it starts itself.
//!
//! `TRIBES_KILLS=200` kills as often; by default it is a few times.

#![cfg(unix)]

mod ledger;
mod load;
mod manager;
mod member;
mod namespaces;
mod node;
mod scenario;

/// Not a test: what the tests start.
#[test]
#[ignore = "the members of the other tests live here"]
fn member_process() {
    if let Ok(plan) = std::env::var(member::PLAN) {
        if let Err(error) = member::live(&plan) {
            eprintln!("member: {error}");
            std::process::exit(1);
        }
        std::process::exit(0);
    }
}
