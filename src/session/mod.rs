//! Sessions that survive: entries replicated among the members of a group.

#[allow(dead_code, unreachable_pub, reason = "being built")]
mod engine;
