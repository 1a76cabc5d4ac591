//! The members as one layer sees them.

use std::net::SocketAddr;

use super::message::Event;
use crate::id::UniqueId;
use crate::member::Member;

/// The members that a layer, or the application above all layers, sees. The local member is not among them.
///
/// Sorted by address and then by id, so that all members of a group list each other in the same order (Tribes: `AbsoluteOrder`).
#[derive(Clone, Debug, Default)]
pub struct View(Vec<Member>);

impl View {
    /// The members, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Member> {
        self.0.iter()
    }

    /// The members, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Member] {
        &self.0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this member is there: same address and same id.
    #[must_use]
    pub fn contains(&self, member: &Member) -> bool {
        self.position(member).is_ok()
    }

    /// The member with this id.
    #[must_use]
    pub fn by_id(&self, id: UniqueId) -> Option<&Member> {
        self.0.iter().find(|member| member.id() == id)
    }

    /// The member at this TCP address.
    #[must_use]
    pub fn by_address(&self, address: SocketAddr) -> Option<&Member> {
        let at = self.0.partition_point(|member| member.address() < address);
        self.0.get(at).filter(|member| member.address() == address)
    }

    /// Whether this very member is there, and as it is.
    pub(crate) fn shows(&self, member: &Member) -> bool {
        self.position(member).is_ok_and(|at| self.0[at].same_value(member))
    }

    /// Follows an event; tells whether anything changed.
    pub(crate) fn apply(&mut self, event: &Event) -> bool {
        match (event, self.position(event.member())) {
            (Event::Added(member), Err(at)) => self.0.insert(at, member.clone()),
            (Event::Added(member) | Event::Updated(member), Ok(at)) if !self.0[at].same_value(member) => {
                self.0[at] = member.clone();
            }
            (Event::Removed(..), Ok(at)) => drop(self.0.remove(at)),
            _ => return false,
        }
        true
    }

    fn position(&self, member: &Member) -> Result<usize, usize> {
        self.0.binary_search_by(|other| absolute_order(other, member))
    }
}

impl<'a> IntoIterator for &'a View {
    type Item = &'a Member;
    type IntoIter = std::slice::Iter<'a, Member>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Fewer address bytes first, then address, port and id. Tribes behaviour: `AbsoluteOrder`.
fn absolute_order(a: &Member, b: &Member) -> std::cmp::Ordering {
    (a.address(), a.id()).cmp(&(b.address(), b.id()))
}
