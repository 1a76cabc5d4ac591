//! Values of other types than bytes, with the feature `serde`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::SetError;
use super::session::Session;

/// Why a value is not of the type that was asked for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("attribute {name:?} is no such value: {error}")]
#[non_exhaustive]
pub struct DecodeError {
    /// The attribute.
    pub name: String,
    /// What the decoder says.
    pub error: String,
}

impl Session {
    /// The value of an attribute that was [set](Self::set_as) as a value of this type, or one that reads like it.
    ///
    /// Needs the feature `serde`. Values are MessagePack, with the names of fields: a field may be added if it has a default
    /// (`#[serde(default)]`), and one may be left out, and members of both versions still understand each other.
    ///
    /// ```
    /// # use tribes::session::DeltaManager;
    /// # fn example(manager: DeltaManager) -> Result<(), Box<dyn std::error::Error>> {
    /// #[derive(serde::Deserialize, serde::Serialize, PartialEq, Debug)]
    /// struct Cart {
    ///     articles: Vec<u32>,
    ///     #[serde(default)] // came with version 2
    ///     coupon: Option<String>,
    /// }
    ///
    /// let mut session = manager.create()?;
    /// let mut cart = session.get_as("cart")?.unwrap_or(Cart { articles: vec![], coupon: None });
    /// cart.articles.push(4711); // changes the cart, not the session
    /// session.set_as("cart", &cart)?; // now the session has changed
    /// session.commit()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the value cannot be read as this type.
    pub fn get_as<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, DecodeError> {
        let decode = |bytes: bytes::Bytes| rmp_serde::from_slice(&bytes);
        self.get(name).map(decode).transpose().map_err(|error| DecodeError { name: name.to_owned(), error: error.to_string() })
    }

    /// Sets an attribute to a value that is encoded: see [`get_as`](Self::get_as) and [`set`](Self::set).
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), and when the value cannot be encoded.
    pub fn set_as<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), SetError> {
        match rmp_serde::to_vec_named(value) {
            Ok(bytes) => self.set(name, bytes),
            Err(error) => Err(SetError::Encode { name: name.to_owned(), error: error.to_string() }),
        }
    }
}
