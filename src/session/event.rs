//! What listeners are told.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::engine::{Attribute, Event, Version, What};
use super::id::SessionId;

/// Something that happened to a session. Events of one session come in the order in which they happened on this member.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SessionEvent {
    /// There is a new session here, made here or replicated.
    #[non_exhaustive]
    Created {
        /// The session.
        id: SessionId,
        /// Whether another member made it.
        remote: bool,
    },
    /// Attributes were set or removed.
    #[non_exhaustive]
    Changed {
        /// The session.
        id: SessionId,
        /// What was written, by name.
        written: Vec<Written>,
        /// Whether another member wrote it.
        remote: bool,
    },
    /// The session was invalidated.
    #[non_exhaustive]
    Invalidated {
        /// The session.
        id: SessionId,
        /// Whether on another member.
        remote: bool,
    },
    /// The session expired: nobody had accessed it for its `max_inactive`.
    #[non_exhaustive]
    Expired {
        /// The session.
        id: SessionId,
        /// Whether another member found so.
        remote: bool,
    },
    /// The session goes on under another id. A member that got to know of it in parts, because the message of it was lost or the member had
    /// no copy before, hears of an [invalidated](Self::Invalidated) and a [created](Self::Created) session instead.
    #[non_exhaustive]
    IdChanged {
        /// The id that it had.
        old: SessionId,
        /// The id that it has.
        id: SessionId,
        /// Whether another member did it.
        remote: bool,
    },
    /// Two writes of one attribute, or of the principal or the authentication type, that did not know of each other have met: the later
    /// one stays, the other is lost. Both tell of the same [field](Written::field).
    #[non_exhaustive]
    Conflict {
        /// The session.
        id: SessionId,
        /// The write that stays.
        kept: Written,
        /// The write that is lost.
        lost: Written,
    },
}

impl SessionEvent {
    /// The session that it happened to.
    #[must_use]
    pub fn id(&self) -> SessionId {
        match self {
            Self::Created { id, .. }
            | Self::Changed { id, .. }
            | Self::Invalidated { id, .. }
            | Self::Expired { id, .. }
            | Self::IdChanged { id, .. }
            | Self::Conflict { id, .. } => *id,
        }
    }

    /// Whether another member did it. A conflict is always remote: half of it is.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Created { remote, .. }
            | Self::Changed { remote, .. }
            | Self::Invalidated { remote, .. }
            | Self::Expired { remote, .. }
            | Self::IdChanged { remote, .. } => *remote,
            Self::Conflict { .. } => true,
        }
    }

    /// The event as applications see it; `None` when it is none of their business.
    pub(super) fn of(event: Event) -> Option<Self> {
        let id = SessionId::from_bytes(<[u8; 16]>::try_from(&*event.key).ok()?);
        let remote = event.remote;
        Some(match event.what {
            What::Created => Self::Created { id, remote },
            What::Changed(attributes) => {
                let shown = attributes.into_iter().filter(|attribute| !attribute.name.starts_with(RESERVED));
                let written: Vec<_> = shown.map(Written::from).collect();
                if written.is_empty() {
                    return None;
                }
                Self::Changed { id, written, remote }
            }
            What::Removed { .. } => Self::Invalidated { id, remote },
            What::Expired { .. } => Self::Expired { id, remote },
            What::Renamed(to) => Self::IdChanged { old: id, id: SessionId::from_bytes(<[u8; 16]>::try_from(&*to).ok()?), remote },
            What::Lost(loss) => {
                // What is kept here for other purposes has no value that anybody could miss.
                Field::of(&loss.name)?;
                Self::Conflict { id, kept: loss.kept.into(), lost: loss.lost.into() }
            }
        })
    }
}

/// What names of attributes begin with that the session keeps for itself.
pub(super) const RESERVED: char = '\0';
/// What the session keeps among its attributes, for nobody else to see.
pub(super) const PRINCIPAL: &str = "\0principal";
pub(super) const AUTH_TYPE: &str = "\0auth";

/// One write of one attribute, or of another field of a session. `Debug` shows how long the value is, not the value.
#[derive(Clone, Eq, PartialEq)]
#[non_exhaustive]
pub struct Written {
    name: Arc<str>,
    /// When it was written, and by whom.
    pub version: Version,
    /// What was written; `None` when it was removed.
    pub value: Option<Bytes>,
}

impl Written {
    /// What was written to.
    ///
    /// ```
    /// use tribes::session::{Field, SessionEvent};
    ///
    /// fn report(event: &SessionEvent) {
    ///     if let SessionEvent::Conflict { id, lost, .. } = event {
    ///         match lost.field() {
    ///             Field::Attribute(name) => eprintln!("{id:?} has lost a write of {name}"),
    ///             Field::Principal => eprintln!("{id:?}: two logins at once"),
    ///             other => eprintln!("{id:?}: {other:?}"),
    ///         }
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn field(&self) -> Field<'_> {
        Field::of(&self.name).unwrap_or(Field::Attribute(&self.name))
    }

    /// The attribute's name; `None` when it is another field of the session.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self.field() {
            Field::Attribute(name) => Some(name),
            _ => None,
        }
    }
}

impl From<Attribute> for Written {
    fn from(attribute: Attribute) -> Self {
        Self { name: attribute.name, version: attribute.version, value: attribute.value }
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written")
            .field("field", &self.field())
            .field("version", &self.version)
            .field("bytes", &self.value.as_ref().map(Bytes::len))
            .finish()
    }
}

/// A part of a session that is written by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Field<'a> {
    /// The attribute of this name.
    Attribute(&'a str),
    /// How the user was authenticated: [`Session::set_auth_type`](super::Session::set_auth_type).
    AuthType,
    /// Who is logged in: [`Session::set_principal`](super::Session::set_principal).
    Principal,
}

impl<'a> Field<'a> {
    fn of(name: &'a str) -> Option<Self> {
        match name {
            PRINCIPAL => Some(Self::Principal),
            AUTH_TYPE => Some(Self::AuthType),
            name if name.starts_with(RESERVED) => None,
            name => Some(Self::Attribute(name)),
        }
    }
}
