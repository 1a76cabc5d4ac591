//! Which members hold which slot: rendezvous hashing (Thaler and Ravishankar, 1998), computed by every member alike.
//!
//! Every member draws a number for each slot, a member of weight `w` draws `w` times and keeps its best; the highest owns the slot, the
//! next hold copies. So a member that joins or leaves moves only the slots that it gets or had. A member draws by its address, not by its
//! unique id: one that restarts under its address gets its slots back. Copies go to zones that have none yet first.

use std::net::SocketAddr;

use bytes::Bytes;

use super::config::Copies;
use super::table::{SLOTS, SlotId};
use crate::id::mix;
use crate::member::Member;

/// Where a member stands, from what it tells about itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Site {
    /// Empty: no zone.
    pub(crate) zone: Bytes,
    /// Its share of the slots, relative to the others; 1 unless told, 64 at most.
    pub(crate) weight: u32,
}

const MAX_WEIGHT: u32 = 64;

impl Site {
    /// What a member's payload says, as text like `zone=eu-1 weight=2`; words that are not understood are left alone.
    pub(crate) fn of(member: &Member) -> Self {
        let mut site = Self { zone: Bytes::new(), weight: 1 };
        let Ok(text) = std::str::from_utf8(member.payload()) else { return site };
        for word in text.split(|c: char| c.is_whitespace() || c == ';' || c == ',') {
            match word.split_once('=') {
                Some(("zone", zone)) => site.zone = Bytes::copy_from_slice(zone.as_bytes()),
                Some(("weight", weight)) => site.weight = weight.parse().map_or(1, |weight: u32| weight.clamp(1, MAX_WEIGHT)),
                _ => {}
            }
        }
        site
    }
}

/// A member that can hold slots.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) member: Member,
    pub(crate) site: Site,
}

/// A position in [`Placement::members`].
pub(crate) type Index = u16;

/// The table of who holds what, for one view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Placement {
    members: Vec<Member>,
    /// How many hold a slot.
    width: usize,
    /// `width` positions for each slot, the owner first.
    holders: Vec<Index>,
}

impl Placement {
    /// Places all slots on these members: the owner and its copies.
    pub(crate) fn new(mut candidates: Vec<Candidate>, copies: Copies) -> Self {
        candidates.sort_by_key(|candidate| candidate.member.address());
        candidates.dedup_by_key(|candidate| candidate.member.address());
        candidates.truncate(usize::from(Index::MAX));
        let width = match copies {
            Copies::Backups(backups) => candidates.len().min(backups.saturating_add(1)),
            Copies::Everywhere => candidates.len(),
        };
        let seeds: Vec<_> = candidates.iter().map(|candidate| seed(candidate.member.address())).collect();
        let mut holders = Vec::with_capacity(usize::from(SLOTS) * width);
        let mut ranks: Vec<(u64, Index)> = Vec::with_capacity(candidates.len());
        for slot in 0..SLOTS {
            ranks.clear();
            ranks
                .extend(seeds.iter().zip(0..).map(|(seed, at)| (draw(*seed, slot, candidates[usize::from(at)].site.weight), at)));
            ranks.sort_unstable_by(|a, b| b.cmp(a));
            let first = holders.len();
            // Another zone first; the rest by rank.
            for spread in [true, false] {
                for (_, at) in &ranks {
                    if holders.len() - first == width {
                        break;
                    }
                    let zone = &candidates[usize::from(*at)].site.zone;
                    let chosen = &holders[first..];
                    let taken = chosen.contains(at);
                    let crowded = spread && chosen.iter().any(|held| candidates[usize::from(*held)].site.zone == *zone);
                    if !taken && !crowded {
                        holders.push(*at);
                    }
                }
            }
        }
        Self { members: candidates.into_iter().map(|candidate| candidate.member).collect(), width, holders }
    }

    /// Who can hold slots, sorted by address.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(crate) fn member(&self, index: Index) -> &Member {
        &self.members[usize::from(index)]
    }

    /// The positions of a slot's holders, the owner first; none when there is no member.
    pub(crate) fn holders(&self, slot: SlotId) -> &[Index] {
        &self.holders[usize::from(slot) * self.width..][..self.width]
    }

    /// A slot's holders, the owner first.
    pub(crate) fn holding(&self, slot: SlotId) -> impl Iterator<Item = &Member> {
        self.holders(slot).iter().map(|at| self.member(*at))
    }

    /// The position of a member among the holders of a slot: 0 is the owner.
    pub(crate) fn rank(&self, slot: SlotId, member: &Member) -> Option<usize> {
        self.holding(slot).position(|holder| holder == member)
    }

    /// All members for a slot, best first, holders or not, regardless of zones.
    pub(crate) fn order(&self, slot: SlotId) -> Vec<&Member> {
        let mut ranks: Vec<_> = self.members.iter().map(|member| (draw(seed(member.address()), slot, 1), member)).collect();
        ranks.sort_by_key(|(draw, _)| std::cmp::Reverse(*draw));
        ranks.into_iter().map(|(_, member)| member).collect()
    }
}

fn seed(address: SocketAddr) -> u64 {
    let ip = match address.ip() {
        std::net::IpAddr::V4(ip) => u64::from(ip.to_bits()),
        std::net::IpAddr::V6(ip) => mix((ip.to_bits() >> 64) as u64) ^ ip.to_bits() as u64,
    };
    mix(mix(ip) ^ u64::from(address.port()))
}

/// The best of `weight` draws: the chance to have the highest is in proportion to the weight.
fn draw(seed: u64, slot: SlotId, weight: u32) -> u64 {
    (0..u64::from(weight)).map(|nth| mix(seed ^ mix(u64::from(slot) << 32 | nth))).max().unwrap_or(0)
}

#[cfg(test)]
mod tests;
