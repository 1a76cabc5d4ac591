//! The route behind a session id in a cookie, `id.node1`, by the rule of Tomcat's `JvmRouteBinderValve`.
//!
//! A balancer that keeps a browser on one node has to know which. Some remember it by themselves; others expect the application
//! to write the node's name, its *route*, behind the session id, and read it there:
//!
//! | balancer | what to set | needs the suffix |
//! | --- | --- | --- |
//! | mod_jk | name the worker, or set its `route`, as this node's route; `sticky_session` is on unless switched off | yes |
//! | mod_proxy_balancer | `BalancerMember ... route=node1` and `ProxySet stickysession=JSESSIONID`, with your cookie's name | yes |
//! | mod_proxy_balancer with a cookie of its own (`ROUTEID`) | `route=node1`, and a `Header add Set-Cookie` line | no |
//! | HAProxy | `cookie SERVER insert indirect nocache`, and `cookie node1` on the server | no |
//! | nginx, `sticky cookie` (open source from 1.29.6) | nothing here | no |
//! | nginx, `sticky route` | `route=node1` on the server, and a `map` that takes what follows the `.` of the cookie | yes |
//!
//! Where there is a choice take a balancer that sets its own cookie: then nothing of this module is needed.
//!
//! # Fail-over
//!
//! The route is no part of the session: sessions are found and replicated by the bare id. When a node dies, the balancer sends
//! the browser to another, which finds the session under the bare id and answers with a cookie that names itself:
//! [`turn_over`]. No member is told, because nothing that is replicated has changed; in Tomcat, the id changes with the route,
//! and each turn-over is a message to all.
//!
//! ```
//! use tribes::session::{SessionId, route};
//!
//! let node1: route::Route = "node1".parse()?;
//! let node2: route::Route = "node2".parse()?;
//!
//! // A new session on node1:
//! let id = SessionId::random();
//! let cookie = route::append(id, &node1);
//!
//! // node1 is gone, and node2 gets the request:
//! let (bare, _) = route::strip(&cookie);
//! assert_eq!(bare.parse(), Ok(id));
//! // ... the session is there, so the browser stays on node2 from now on:
//! assert_eq!(route::turn_over(&cookie, &node2), Some(format!("{id}.node2")));
//! # Ok::<(), route::RouteError>(())
//! ```
//!
//! Any id will do, not only a [`SessionId`](super::SessionId), as long as it has no `.` of its own.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The cookie value for this id on the node with this route: `id.route`. A route that `id` has already is replaced.
///
/// ```
/// use tribes::session::route::{self, Route};
/// let node2 = Route::new("node2")?;
/// assert_eq!(route::append("4F1A", &node2), "4F1A.node2");
/// assert_eq!(route::append("4F1A.node1", &node2), "4F1A.node2");
/// # Ok::<(), route::RouteError>(())
/// ```
#[must_use]
pub fn append(id: impl fmt::Display, route: &Route) -> String {
    let mut text = id.to_string();
    text.truncate(strip(&text).0.len());
    text.push(SEPARATOR);
    text.push_str(route.as_str());
    text
}

/// The bare id and the route of a cookie value: what stands before and behind the first `.`.
///
/// The route is not checked, as it came from a browser; it may be empty. Without a `.`, or with nothing before it, there is no
/// route and all is the id.
///
/// ```
/// use tribes::session::route;
/// assert_eq!(route::strip("4F1A.node1"), ("4F1A", Some("node1")));
/// assert_eq!(route::strip("4F1A.eu.node1"), ("4F1A", Some("eu.node1")));
/// assert_eq!(route::strip("4F1A"), ("4F1A", None));
/// assert_eq!(route::strip(".node1"), (".node1", None));
/// ```
#[must_use]
pub fn strip(text: &str) -> (&str, Option<&str>) {
    match text.split_once(SEPARATOR) {
        Some((bare, route)) if !bare.is_empty() => (bare, Some(route)),
        _ => (text, None),
    }
}

/// The new cookie value where the browser comes with another node's route; `None` where its cookie can stay as it is.
///
/// A cookie without any route stays, as in Tomcat: it was made without this rule, and [`append`] is there for who wants otherwise.
///
/// The id comes from the browser and is handed back as it is. Set the cookie only once the session was found under the bare id;
/// what names no session deserves no answer, and may hold anything.
///
/// ```
/// use tribes::session::route::{self, Route};
/// let node2 = Route::new("node2")?;
/// assert_eq!(route::turn_over("4F1A.node1", &node2).as_deref(), Some("4F1A.node2"));
/// assert_eq!(route::turn_over("4F1A.node2", &node2), None);
/// assert_eq!(route::turn_over("4F1A", &node2), None);
/// # Ok::<(), route::RouteError>(())
/// ```
#[must_use]
pub fn turn_over(text: &str, mine: &Route) -> Option<String> {
    let (bare, route) = strip(text);
    (route? != mine.as_str()).then(|| append(bare, mine))
}

/// Between id and route.
const SEPARATOR: char = '.';

/// The name under which a balancer knows this node: Tomcat's `jvmRoute`. One or more characters that may stand in a cookie, none
/// of them a `.`; cheap to clone.
///
/// ```
/// use tribes::session::route::Route;
/// assert_eq!(Route::new("node1")?.as_str(), "node1");
/// assert!(Route::new("eu.node1").is_err());
/// # Ok::<(), tribes::session::route::RouteError>(())
/// ```
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Route(Arc<str>);

impl Route {
    /// The route of this name.
    ///
    /// # Errors
    ///
    /// When the name is empty, or has a character that ends a route or a cookie's value.
    pub fn new(name: impl Into<Arc<str>>) -> Result<Self, RouteError> {
        let name = name.into();
        if name.is_empty() {
            return Err(RouteError::Empty);
        }
        match name.chars().find(|character| !allowed(*character)) {
            Some(character) => Err(RouteError::Character(character)),
            None => Ok(Self(name)),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What may stand in the value of a cookie (RFC 6265), but for the separator: no white space, control or quote.
fn allowed(character: char) -> bool {
    character.is_ascii_graphic() && !matches!(character, SEPARATOR | ';' | ',' | '"' | '\\')
}

impl FromStr for Route {
    type Err = RouteError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Why a name is no [`Route`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// A character that would end the route or the cookie; this one.
    #[error("a route has no {0:?}; visible ASCII characters but for `.` `,` `;` `\"` and `\\` can be used")]
    Character(char),
    /// There is nothing.
    #[error("a route has at least one character")]
    Empty,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::SessionId;

    #[test]
    fn the_cookie_is_split_at_the_first_dot() {
        for (text, parts) in [
            ("", ("", None)),
            (".", (".", None)),
            (".node1", (".node1", None)),
            ("..", ("..", None)),
            ("id", ("id", None)),
            ("id.", ("id", Some(""))),
            ("id.node1", ("id", Some("node1"))),
            ("id.node1.", ("id", Some("node1."))),
            ("id..node1", ("id", Some(".node1"))),
            ("id.a.b", ("id", Some("a.b"))),
            ("ié.ü", ("ié", Some("ü"))),
        ] {
            assert_eq!(strip(text), parts, "{text}");
        }
    }

    #[test]
    fn only_another_nodes_route_is_turned_over() {
        let mine = Route::new("node2").unwrap();
        for (text, new) in [
            ("id.node1", Some("id.node2")),
            ("id.node2.x", Some("id.node2")),
            ("id.NODE2", Some("id.node2")),
            ("id.", Some("id.node2")),
            ("id.node2", None),
            ("id", None),
            (".node1", None),
            ("", None),
        ] {
            assert_eq!(turn_over(text, &mine).as_deref(), new, "{text}");
        }
    }

    #[test]
    fn a_route_cannot_break_a_cookie() {
        assert_eq!(Route::new(""), Err(RouteError::Empty));
        for bad in ['.', ';', ',', ' ', '\t', '\r', '\n', '\0', '\x7f', '"', '\\', 'é', '\u{85}', '\u{2028}'] {
            assert_eq!(Route::new(format!("node{bad}1")), Err(RouteError::Character(bad)));
        }
        for good in ["n", "node-1", "eu_1", "10:8080", "a=b", "~!"] {
            assert_eq!(good.parse::<Route>().unwrap().to_string(), good);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_appended_is_stripped(bytes: [u8; 16], first in "[a-z0-9-]{1,20}", second in "[!-~]{1,20}") {
            let id = SessionId::from_bytes(bytes);
            let first = Route::new(first).expect("letters, digits and dashes");
            let (bare, cookie) = (id.to_string(), append(id, &first));
            prop_assert_eq!(strip(&cookie), (bare.as_str(), Some(first.as_str())));
            prop_assert_eq!(turn_over(&cookie, &first), None);
            if let Ok(second) = Route::new(second) {
                let turned = append(id, &second);
                prop_assert_eq!(append(&cookie, &second), turned.as_str());
                prop_assert_eq!(turn_over(&cookie, &second), (first != second).then_some(turned));
            }
        }

        #[test]
        fn any_text_has_an_id_and_turning_it_over_keeps_it(text in ".{0,40}|[a-c.]{0,12}") {
            let mine = Route::new("node1").expect("a route");
            let (bare, route) = strip(&text);
            prop_assert_eq!(route.map_or(bare.len(), |route| bare.len() + 1 + route.len()), text.len());
            if let Some(turned) = turn_over(&text, &mine) {
                prop_assert_eq!(strip(&turned), (bare, Some("node1")));
                prop_assert_eq!(turn_over(&turned, &mine), None);
            }
        }
    }
}
