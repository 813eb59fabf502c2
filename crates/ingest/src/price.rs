//! What a call of a model costs, in exact decimals.
//!
//! The prices come from the catalogue in the crate `genai-prices`, which knows dates, times of day, cached and
//! cache-write rates, tiers by prompt length and service tiers. Asking it takes microseconds, too long for every span.
//! So the catalogue is probed once for each provider, model and service tier, quarter of an hour and range of prompt
//! lengths; where its answers prove to be linear in the tokens, the rates are kept and a cost is a few multiplications
//! of integers. Where they do not, every such call is put to the catalogue itself.
//!
//! Unknown is not zero:
//! - a call that tells no input tokens has no cost, nor one that tells no output tokens, unless it is an embedding or
//!   the model's output is free of charge;
//! - a model for which the catalogue has no price by tokens has no cost, unless its name says `:free`;
//! - a call of a provider that the catalogue does not know has no cost, although another provider may sell a model of
//!   that name: a model that runs on the user's own machines is not billed at somebody's list price;
//! - counts that contradict each other (negative, more cached tokens than input) have no cost.

mod provider;
mod rates;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use genai_prices::Calculator;
use hashbrown::HashTable;
use parking_lot::RwLock;
use rates::{Question, Resolved, Tokens};

/// The version of what [`Pricer`] computes. To be raised with every change of the catalogue or of the rules here, so
/// that a logged request is priced by a replay as it was when it came, or the difference is known.
pub const PRICES_VERSION: u32 = 1;

/// The catalogue, as `price_source` has it.
const SOURCE: &str = "genai-prices 0.2.1";

/// Resolved questions kept. All are forgotten when there would be more: a service uses tens of models, and a flood of
/// made-up names must not stay.
const RESOLVED_MAX: usize = 4096;

/// Longer names are not looked up: no provider has such a model.
const NAMES_BYTES_MAX: usize = 512;

/// A call to be priced.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call<'a> {
    /// The provider, as the `provider` column has it.
    pub provider: Option<&'a str>,
    /// The model that answered.
    pub model: &'a str,
    /// What was done, as the `operation` column has it.
    pub operation: Option<&'a str>,
    /// The tier the provider reported, such as `flex`; `batch` stands for the provider's batch interface.
    pub service_tier: Option<&'a str>,
    /// When the call was made.
    pub time_unix_nano: u64,
    /// All input tokens, those from and to the cache included.
    pub input_tokens: Option<i64>,
    /// All output tokens.
    pub output_tokens: Option<i64>,
    /// The part of the input that was read from the cache; none is taken for zero.
    pub cache_read_tokens: Option<i64>,
    /// The part of the input that was written to the cache; none is taken for zero.
    pub cache_write_tokens: Option<i64>,
}

/// What a call costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// The cost in units of 1e-12 US dollars, rounded half to even, fit for `DECIMAL(18, 12)`.
    Usd(i128),
    /// The catalogue has no price for the call, or the call does not tell its usage.
    Unknown,
    /// A million dollars or more.
    OutOfRange,
}

/// Prices calls. Cheap to ask and to be shared by threads.
pub struct Pricer {
    catalogue: &'static Calculator,
    resolved: RwLock<HashTable<(Key, Resolved)>>,
    hasher: RandomState,
}

impl fmt::Debug for Pricer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pricer").field("source", &SOURCE).field("resolved", &self.resolved.read().len()).finish()
    }
}

impl Default for Pricer {
    fn default() -> Self {
        Self::new()
    }
}

impl Pricer {
    /// Prices by the built-in catalogue. Reading it takes tens of milliseconds the first time.
    pub fn new() -> Self {
        Self::with_catalogue(Calculator::bundled())
    }

    fn with_catalogue(catalogue: &'static Calculator) -> Self {
        Self { catalogue, resolved: RwLock::default(), hasher: RandomState::default() }
    }

    /// The catalogue's name and version.
    pub fn source(&self) -> &str {
        SOURCE
    }

    /// What `call` costs.
    pub fn cost(&self, call: &Call<'_>) -> Cost {
        let Some(tokens) = Tokens::of(call) else { return Cost::Unknown };
        let question = Question::of(call, tokens.input);
        if question.model.is_empty() || question.names_bytes() > NAMES_BYTES_MAX {
            return Cost::Unknown;
        }
        let resolved = self.resolve(&question);
        let tells_all = call.output_tokens.is_some() || call.operation == Some("embeddings");
        match resolved {
            Resolved::Unpriced => Cost::Unknown,
            Resolved::Linear(rates) if tells_all || rates.output_is_free() => rates.cost(&tokens),
            Resolved::Other { output_is_free } if tells_all || output_is_free => {
                rates::cost_by_catalogue(self.catalogue, &question, &tokens, call.time_unix_nano)
            }
            Resolved::Linear(_) | Resolved::Other { .. } => Cost::Unknown,
        }
    }

    fn resolve(&self, question: &Question<'_>) -> Resolved {
        let hash = self.hasher.hash_one(question);
        if let Some((_, resolved)) = self.resolved.read().find(hash, |(key, _)| key.is(question)) {
            return *resolved;
        }
        let resolved = rates::resolve(self.catalogue, question);
        let mut known = self.resolved.write();
        if known.len() >= RESOLVED_MAX {
            known.clear();
        }
        // Another thread may have come first, with the same result.
        known
            .entry(hash, |(key, _)| key.is(question), |(key, _)| self.hasher.hash_one(key.question()))
            .or_insert_with(|| (Key::of(question), resolved));
        resolved
    }
}

/// A question with texts of its own.
struct Key {
    provider: Option<Box<str>>,
    model: Box<str>,
    service_tier: Option<Box<str>>,
    slot: u32,
    band: u8,
}

impl Key {
    fn of(question: &Question<'_>) -> Self {
        Self {
            provider: question.provider.map(Box::from),
            model: question.model.into(),
            service_tier: question.service_tier.map(Box::from),
            slot: question.slot,
            band: question.band,
        }
    }

    fn question(&self) -> Question<'_> {
        Question {
            provider: self.provider.as_deref(),
            model: &self.model,
            service_tier: self.service_tier.as_deref(),
            slot: self.slot,
            band: self.band,
        }
    }

    fn is(&self, question: &Question<'_>) -> bool {
        self.question() == *question
    }
}
