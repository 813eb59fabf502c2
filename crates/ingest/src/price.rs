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

mod catalogue;
mod provider;
mod rates;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::BuildHasher;

use catalogue::Catalogue;
use foldhash::fast::RandomState;
use genai_prices::Calculator;
use hashbrown::HashTable;
use parking_lot::RwLock;
use rates::{Question, Rates, Resolved, Tokens};

/// The version of what [`Pricer`] computes. To be raised with every change of the catalogue or of the rules here, so
/// that a logged request is priced by a replay as it was when it came, or the difference is known.
pub const PRICES_VERSION: u32 = 2;

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
    /// The part of the output that was thinking; none is taken for zero.
    pub reasoning_tokens: Option<i64>,
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

/// Which catalogue a price is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PricedBy {
    /// The one the product ships.
    BuiltIn,
    /// The user's own.
    Own,
}

/// Rates of a model at a time, in units of 1e-12 US dollars a million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownRates {
    /// From where they are.
    pub priced_by: PricedBy,
    /// Input that neither came from the cache nor went there.
    pub input: u64,
    /// Input from the cache.
    pub cache_read: u64,
    /// Input to the cache.
    pub cache_write: u64,
    /// Output.
    pub output: u64,
    /// Output that is thinking.
    pub reasoning: u64,
    /// Each request by itself, in units of 1e-12 US dollars.
    pub request: u64,
}

/// Prices calls. Cheap to ask and to be shared by threads.
pub struct Pricer {
    catalogue: &'static Calculator,
    own: Option<Catalogue>,
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
        Self { catalogue, own: None, resolved: RwLock::default(), hasher: RandomState::default() }
    }

    /// Prices by a catalogue of the user's own, and by the built-in one where that has no price.
    ///
    /// # Errors
    /// What is wrong with the file, with its path and the line.
    pub fn with_own(path: &str, text: &str) -> Result<Self, String> {
        Ok(Self { own: Some(Catalogue::read(path, text)?), ..Self::new() })
    }

    /// Whether there is a catalogue of the user's own.
    pub(crate) fn has_own(&self) -> bool {
        self.own.is_some()
    }

    /// The version of what this pricer computes: another one with another catalogue of the user's own.
    pub fn version(&self) -> u32 {
        PRICES_VERSION | self.own.as_ref().map_or(0, |own| own.checksum() << 8)
    }

    /// A catalogue's name and version.
    pub fn source(&self, priced_by: PricedBy) -> &str {
        match (priced_by, &self.own) {
            (PricedBy::Own, Some(own)) => own.source(),
            _ => SOURCE,
        }
    }

    /// The user's own prices, one a line: model, provider, from when on, where one is told.
    pub fn own_prices(&self) -> Vec<[String; 3]> {
        self.own.as_ref().map(Catalogue::listed).unwrap_or_default()
    }

    /// The rates of a model for short prompts, where they do not depend on anything else.
    pub fn rates(&self, provider: Option<&str>, model: &str, time_unix_nano: u64) -> Option<ShownRates> {
        let call = Call { provider, model, time_unix_nano, ..Call::default() };
        let (priced_by, rates) = match self.resolve(&Question::of(&call, 1)) {
            Resolved::Own(rates) => (PricedBy::Own, rates),
            Resolved::Linear(rates) => (PricedBy::BuiltIn, rates),
            Resolved::Unpriced | Resolved::Other { .. } => return None,
        };
        let request = rates.request / rates::RATE_UNITS_PER_COST_UNIT;
        let Rates { input, cache_read, cache_write, output, reasoning, .. } = rates;
        Some(ShownRates { priced_by, input, cache_read, cache_write, output, reasoning, request })
    }

    /// What `call` costs.
    pub fn cost(&self, call: &Call<'_>) -> Cost {
        self.price(call).0
    }

    /// What `call` costs, and by which catalogue.
    pub fn price(&self, call: &Call<'_>) -> (Cost, PricedBy) {
        self.price_lately(call, &mut Answers::default())
    }

    /// As [`Pricer::price`], and remembers what the catalogues say.
    pub(crate) fn price_lately(&self, call: &Call<'_>, answers: &mut Answers) -> (Cost, PricedBy) {
        let unknown = (Cost::Unknown, PricedBy::BuiltIn);
        let Some(tokens) = Tokens::of(call) else { return unknown };
        let question = Question::of(call, tokens.input);
        if question.model.is_empty() || question.names_bytes() > NAMES_BYTES_MAX {
            return unknown;
        }
        let resolved = answers.get_or(&question, || self.resolve(&question));
        if let Resolved::Own(rates) = resolved {
            let tells_all =
                call.output_tokens.is_some() || call.operation == Some("embeddings") || rates.output_is_free();
            return if tells_all { (rates.cost(&tokens), PricedBy::Own) } else { unknown };
        }
        (self.built_in_cost(call, &question, &tokens, resolved), PricedBy::BuiltIn)
    }

    fn built_in_cost(&self, call: &Call<'_>, question: &Question<'_>, tokens: &Tokens, resolved: Resolved) -> Cost {
        let tells_all = call.output_tokens.is_some() || call.operation == Some("embeddings");
        match resolved {
            Resolved::Unpriced | Resolved::Own(_) => Cost::Unknown,
            Resolved::Linear(rates) if tells_all || rates.output_is_free() => rates.cost(tokens),
            Resolved::Other { output_is_free } if tells_all || output_is_free => {
                rates::cost_by_catalogue(self.catalogue, question, tokens, call.time_unix_nano)
            }
            Resolved::Linear(_) | Resolved::Other { .. } => Cost::Unknown,
        }
    }

    fn resolve(&self, question: &Question<'_>) -> Resolved {
        let hash = self.hasher.hash_one(question);
        if let Some((_, resolved)) = self.resolved.read().find(hash, |(key, _)| key.is(question)) {
            return *resolved;
        }
        let resolved = rates::resolve(self.catalogue, self.own.as_ref(), question);
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

/// What the catalogues said lately, for one thread.
#[derive(Default)]
pub(crate) struct Answers {
    answers: Vec<(u64, Key, Resolved)>,
    next: usize,
}

/// Answers that one thread keeps; the oldest goes first.
const ANSWERS_MAX: usize = 16;

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").field("kept", &self.answers.len()).finish()
    }
}

impl Answers {
    #[inline]
    fn get_or(&mut self, question: &Question<'_>, ask: impl FnOnce() -> Resolved) -> Resolved {
        let sign = sign(question);
        if let Some((_, _, answer)) = self.answers.iter().find(|(known, key, _)| *known == sign && key.is(question)) {
            return *answer;
        }
        let new = (sign, Key::of(question), ask());
        let answer = new.2;
        if self.answers.len() < ANSWERS_MAX {
            self.answers.push(new);
        } else {
            self.answers[self.next % ANSWERS_MAX] = new;
            self.next += 1;
        }
        answer
    }
}

/// Tells most questions apart: the end of the model's name, the time and the length of the prompt.
#[inline]
fn sign(question: &Question<'_>) -> u64 {
    let model = question.model.as_bytes();
    let end = model.last_chunk::<8>().map_or(0, |end| u64::from_le_bytes(*end));
    end ^ (model.len() as u64) << 56 ^ u64::from(question.slot) << 8 ^ u64::from(question.band)
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
