//! Puts a stack together and refuses orders that are known to be wrong.

use std::collections::VecDeque;
use std::fmt;

use super::{Interceptor, Layer, LayerTraits, Stack, View};
use crate::member::Member;
use crate::options::SendOptions;

/// Builds a [`Stack`], from the layer next to the application down to the one next to the transport.
#[derive(Default)]
pub struct StackBuilder {
    layers: Vec<(SendOptions, Box<dyn Interceptor>)>,
}

impl StackBuilder {
    /// A stack without layers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a layer below those that are there.
    #[must_use]
    pub fn push(self, layer: impl Interceptor + 'static) -> Self {
        self.push_for(SendOptions::NONE, layer)
    }

    /// Adds a layer that only sees messages with all bits of `options` (Tribes: `optionFlag`). It sees all events.
    #[must_use]
    pub fn push_for(mut self, options: SendOptions, layer: impl Interceptor + 'static) -> Self {
        self.layers.push((options, Box::new(layer)));
        self
    }

    /// How many layers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there are no layers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// The stack of a member. `seed` drives what layers decide at random.
    ///
    /// # Errors
    ///
    /// When two layers have one name, react to the same option bits, or stand in an order that is known to be wrong; the error
    /// says what to change.
    pub fn build(self, local: Member, seed: u64) -> Result<Stack, StackError> {
        self.check()?;
        let gates = self.layers.iter().filter_map(|(options, layer)| Some((*options, layer.gate()?))).collect();
        let layers = self.layers.into_iter().map(|(options, interceptor)| Layer {
            interceptor,
            options,
            view: View::default(),
            wake_at: None,
        });
        Ok(Stack {
            layers: layers.collect(),
            local,
            random: seed,
            top: View::default(),
            work: VecDeque::new(),
            output: VecDeque::new(),
            gates,
        })
    }

    fn check(&self) -> Result<(), StackError> {
        for (below_at, (_, below)) in self.layers.iter().enumerate() {
            for (_, above) in &self.layers[..below_at] {
                let (upper, lower) = (above.name(), below.name());
                if upper == lower {
                    return Err(StackError::DuplicateName(upper));
                }
                let (a, b) = (above.traits(), below.traits());
                if a.option_bits.bits() & b.option_bits.bits() != 0 {
                    let bits = a.option_bits.bits() & b.option_bits.bits();
                    return Err(StackError::OptionClash { upper, lower, bits });
                }
                if let Some(reason) = wrong_order(a, b) {
                    return Err(StackError::Order { upper, lower, reason });
                }
            }
        }
        Ok(())
    }
}

/// Why a layer with `upper`'s traits must not stand above one with `lower`'s.
fn wrong_order(upper: LayerTraits, lower: LayerTraits) -> Option<&'static str> {
    if upper.probes && lower.encrypts {
        return Some("its probes bypass the layers below and would arrive in clear");
    }
    if upper.orders && (lower.rewrites || lower.encrypts) {
        return Some(
            "it makes one message per destination, each of which would be rewritten anew; number what is rewritten already",
        );
    }
    None
}

impl fmt::Debug for StackBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.layers.iter().map(|(_, layer)| layer.name())).finish()
    }
}

/// Why a stack cannot be built.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StackError {
    /// Two layers have one name.
    #[error("the stack has two layers named {0}; remove one, or give yours another name")]
    DuplicateName(&'static str),
    /// Two layers use the same option bits.
    #[error("{upper} and {lower} both use the option bits {bits:#x}; configure another bit for one of them")]
    OptionClash {
        /// The layer nearer to the application.
        upper: &'static str,
        /// The layer nearer to the transport.
        lower: &'static str,
        /// The bits that both use.
        bits: u32,
    },
    /// Two layers stand in an order that is known to be wrong.
    #[error("{upper} must stand below {lower}: {reason}")]
    Order {
        /// The layer that stands too high.
        upper: &'static str,
        /// The layer that must stand above it.
        lower: &'static str,
        /// Why.
        reason: &'static str,
    },
}
