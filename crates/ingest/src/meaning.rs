//! What a span stands for: the provider, the usage, its role, its cost. Facts in, columns out.

use std::sync::Arc;

use parking_lot::Mutex;
use spanlake_schema::flags::reading as flag;

use crate::price::{Call, Cost, Pricer};
use crate::reading::{Fact, Facts, MODEL, Places, set_text};
use crate::rules::Rules;
use crate::span_columns::{SpanColumns, slot};
use crate::value::Attribute;

/// What the meaning of a span depends on beside its facts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpanFacts<'s, 'a> {
    pub(crate) name: &'a [u8],
    pub(crate) failed: bool,
    /// When the call was made, for its price.
    pub(crate) start_unix_nano: u64,
    pub(crate) duration_ns: Option<i64>,
    /// The type of the span's last exception event.
    pub(crate) exception: Option<&'a [u8]>,
    pub(crate) attributes: &'s [Attribute<'a>],
}

/// What writing the meaning of a span told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    /// Bits of the column `promoted`.
    pub(crate) promoted: i64,
    /// A call with usage whose price is not known.
    pub(crate) unpriced: bool,
}

/// The rules, the prices, and what was looked up lately.
#[derive(Debug)]
pub(crate) struct Meaning {
    rules: Rules,
    places: Places,
    pricer: Arc<Pricer>,
    providers: Mutex<Vec<Spelling>>,
}

/// A provider as told, and its well-known name.
#[derive(Debug)]
struct Spelling {
    told: Box<[u8]>,
    provider: Arc<str>,
}

/// Spellings of providers remembered; a handful is in use anywhere.
const PROVIDERS_REMEMBERED: usize = 32;

impl Meaning {
    pub(crate) fn new(rules: Rules, pricer: Arc<Pricer>) -> Self {
        let places = Places::of(&rules);
        Self { rules, places, pricer, providers: Mutex::new(Vec::new()) }
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    fn provider(&self, told: &[u8]) -> Arc<str> {
        let mut known = self.providers.lock();
        if let Some(spelling) = known.iter().find(|spelling| *spelling.told == *told) {
            return Arc::clone(&spelling.provider);
        }
        let provider: Arc<str> = self.rules.provider(&String::from_utf8_lossy(told)).into();
        if known.len() == PROVIDERS_REMEMBERED {
            known.clear();
        }
        known.push(Spelling { told: told.into(), provider: Arc::clone(&provider) });
        provider
    }

    /// Writes the columns that tell what a span means. `held` gets the attributes that a column stands in for.
    pub(crate) fn write<'a>(
        &self,
        span: &SpanFacts<'_, 'a>,
        facts: &mut Facts<'a>,
        columns: &mut SpanColumns,
        held: &mut [u8],
    ) -> Told {
        if facts.is_empty() {
            if span.failed
                && let Some(exception) = span.exception
            {
                set_text(columns, const { slot("error_type") }, exception);
            }
            return Told::default();
        }
        let dialect = facts.dialect(&self.rules, &self.places);
        if let Some(dialect) = dialect {
            set_text(columns, const { slot("dialect") }, dialect.as_bytes());
        }
        include_cache(facts, &self.places);
        let operation = self.operation(span, facts);
        let inference = self.is_inference(facts, operation);
        let provider_bit = self.write_provider(span, facts, columns, held, inference);
        if facts.is_unknown(self.places.error_type)
            && span.failed
            && let Some(exception) = span.exception
        {
            set_text(columns, const { slot("error_type") }, exception);
        }
        if facts.is_unknown(self.places.operation)
            && let Some(operation) = operation
        {
            set_text(columns, const { slot("operation") }, operation.as_bytes());
            facts.flags |= flag::OPERATION_DERIVED;
        }
        let model = facts.text(self.places.response_model).or_else(|| facts.text(self.places.request_model));
        if let Some(model) = model {
            set_text(columns, MODEL, model);
        }
        self.write_usage(span, facts, columns, inference);
        let unpriced = inference && self.write_cost(span, facts, columns, operation, provider_bit.1.as_deref());
        let promoted = facts.write(&self.rules, columns, span.attributes, held) | provider_bit.0;
        Told { promoted, unpriced }
    }

    /// The operation, as told, or as the first word of the span's name tells.
    fn operation<'f>(&'f self, span: &SpanFacts<'_, 'f>, facts: &Facts<'f>) -> Option<&'f str> {
        if let Some(told) = facts.text(self.places.operation) {
            return std::str::from_utf8(told).ok();
        }
        let calls = facts.text(self.places.request_model).or_else(|| facts.text(self.places.response_model));
        calls?;
        let word = span.name.split(|&byte| byte == b' ').next()?;
        let known = self.rules.inference_operations.iter().find(|operation| operation.as_bytes() == word);
        known.map(String::as_str)
    }

    /// Whether the span is the call of a model: its operation says so, or, where it has none, it has usage of its own
    /// or names both a provider and a model.
    fn is_inference(&self, facts: &Facts<'_>, operation: Option<&str>) -> bool {
        let places = &self.places;
        match operation {
            Some(operation) => self.rules.inference_operations.iter().any(|known| known == operation),
            None => {
                let told = |place| !facts.is_unknown(place);
                let model = told(places.request_model) || told(places.response_model);
                told(places.input_tokens) || told(places.output_tokens) || model && told(places.provider)
            }
        }
    }

    /// Writes the provider. Returns its bit of `promoted`, and the provider.
    fn write_provider<'a>(
        &self,
        span: &SpanFacts<'_, 'a>,
        facts: &mut Facts<'a>,
        columns: &mut SpanColumns,
        held: &mut [u8],
        inference: bool,
    ) -> (i64, Option<Arc<str>>) {
        if let Some(found) = facts.take(self.places.provider) {
            let Fact::Text(told) = found.fact else { return (0, None) };
            let provider = self.provider(told);
            set_text(columns, const { slot("provider") }, provider.as_bytes());
            let rule = &self.rules.facts[self.places.provider];
            let unchanged = provider.as_bytes() == told && found.holds(rule.read_as, span.attributes);
            let mut bit = 0;
            if let Some(place) = rule.promoted.filter(|_| unchanged) {
                held[found.attribute()] = place + 1;
                bit = 1i64 << place;
            }
            return (bit, Some(provider));
        }
        if !inference {
            return (0, None);
        }
        let places = &self.places;
        let text = |place| facts.text(place).and_then(|text| std::str::from_utf8(text).ok());
        let host = text(places.server_address).and_then(|host| self.rules.provider_of_host(host));
        let model = || text(places.response_model).or_else(|| text(places.request_model));
        let derived = host.or_else(|| self.rules.provider_of_model(model()?));
        let Some(provider) = derived else { return (0, None) };
        facts.flags |= flag::PROVIDER_DERIVED;
        set_text(columns, const { slot("provider") }, provider.as_bytes());
        (0, Some(provider.into()))
    }

    fn write_usage<'a>(
        &self,
        span: &SpanFacts<'_, 'a>,
        facts: &mut Facts<'a>,
        columns: &mut SpanColumns,
        inference: bool,
    ) {
        let places = &self.places;
        let row = columns.rows;
        let (input, output) = (facts.int(places.input_tokens), facts.int(places.output_tokens));
        let usage = input.is_some() || output.is_some();
        if facts.is_unknown(places.total_tokens)
            && let (Some(input), Some(output)) = (input, output)
            && let Some(total) = input.checked_add(output)
        {
            columns.ints[const { slot("total_tokens") }].set(row, total);
        }
        if inference {
            set_text(columns, const { slot("usage_role") }, b"leaf");
        } else if usage {
            set_text(columns, const { slot("usage_role") }, b"aggregate");
        }
        if usage {
            set_text(columns, const { slot("usage_source") }, b"reported");
        }
        if facts.is_unknown(places.time_per_output_token)
            && facts.bool(places.streamed) == Some(true)
            && let (Some(duration), Some(first)) = (span.duration_ns, facts.int(places.time_to_first_token))
            && let Some(output) = output.filter(|&output| output > 1)
            && first <= duration
        {
            let each = (duration - first) / (output - 1);
            columns.ints[const { slot("time_per_output_token_ns") }].set(row, each);
        }
    }

    /// Writes the cost of a call. Returns whether it has usage but no known price.
    fn write_cost<'a>(
        &self,
        span: &SpanFacts<'_, 'a>,
        facts: &mut Facts<'a>,
        columns: &mut SpanColumns,
        operation: Option<&str>,
        provider: Option<&str>,
    ) -> bool {
        let places = &self.places;
        let text = |place| facts.text(place).and_then(|text| std::str::from_utf8(text).ok());
        let (input_tokens, output_tokens) = (facts.int(places.input_tokens), facts.int(places.output_tokens));
        if input_tokens.is_none() && output_tokens.is_none() {
            return false;
        }
        let models = [text(places.response_model), text(places.request_model)];
        let mut cost = Cost::Unknown;
        for model in models.into_iter().flatten() {
            cost = self.pricer.cost(&Call {
                provider,
                model,
                operation,
                time_unix_nano: span.start_unix_nano,
                input_tokens,
                output_tokens,
                cache_read_tokens: facts.int(places.cache_read_tokens),
                cache_write_tokens: facts.int(places.cache_write_tokens),
                service_tier: text(places.service_tier),
            });
            if cost != Cost::Unknown {
                break;
            }
        }
        let row = columns.rows;
        match cost {
            Cost::Usd(usd) => {
                columns.usds[const { slot("cost_usd") }].set(row, usd);
                set_text(columns, const { slot("price_source") }, self.pricer.source().as_bytes());
            }
            Cost::OutOfRange => facts.flags |= flag::COST_OUT_OF_RANGE,
            Cost::Unknown => return true,
        }
        false
    }
}

/// `input_tokens` includes cached tokens. Where an emitter's does not (uncached input would fall below zero), they are
/// added and the row says so.
fn include_cache(facts: &mut Facts<'_>, places: &Places) {
    let Some(input) = facts.int(places.input_tokens) else { return };
    let cached = |place| facts.int(place).unwrap_or(0);
    let Some(cached) = cached(places.cache_read_tokens).checked_add(cached(places.cache_write_tokens)) else { return };
    if cached > input
        && let Some(all) = input.checked_add(cached)
    {
        facts.replace_int(places.input_tokens, all);
        facts.flags |= flag::INPUT_EXCLUDED_CACHE;
    }
}
