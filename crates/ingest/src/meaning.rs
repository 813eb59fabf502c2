//! What a span stands for: the provider, the usage, its cost, and what its role depends on. Facts in, columns out.

mod counts;
mod failure;
mod lately;

use std::borrow::Cow;
use std::sync::Arc;

use parking_lot::Mutex;
use spanlake_schema::flags::reading as flag;

use crate::price::{Answers, Call, Cost, PricedBy, Pricer};
use crate::reading::{Facts, MODEL, set_text};
use crate::roles::{Note, name_hash};
use crate::rules::{Class, FactIndex, Operation, Rules, Source};
use crate::span_columns::{SpanColumns, slot};
use crate::value::Attribute;
pub(crate) use lately::Lately;

/// What the meaning of a span depends on beside its facts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpanFacts<'s, 'a> {
    pub(crate) name: &'a [u8],
    pub(crate) failed: bool,
    pub(crate) status_message: &'a [u8],
    /// When the call was made, for its price.
    pub(crate) start_unix_nano: u64,
    pub(crate) duration_ns: Option<i64>,
    /// The type of the span's last exception event.
    pub(crate) exception: Option<&'a [u8]>,
    pub(crate) attributes: &'s [Attribute<'a>],
    /// What is known of the emitter: places in [`Rules::emitters`].
    pub(crate) emitters: &'s [usize],
}

/// What writing the meaning of a span told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Bits of the column `promoted`.
    pub(crate) promoted: i64,
    /// What the span's role depends on, where it may have one.
    pub(crate) note: Option<Note>,
}

/// The places of the facts that the meaning of a span depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) request_model: FactIndex,
    pub(crate) response_model: FactIndex,
    operation: FactIndex,
    provider: FactIndex,
    either_model: FactIndex,
    answered: FactIndex,
    entity_name: FactIndex,
    agent_name: FactIndex,
    tool_name: FactIndex,
    workflow_name: FactIndex,
    input_tokens: FactIndex,
    uncached_input_tokens: FactIndex,
    output_tokens: FactIndex,
    visible_output_tokens: FactIndex,
    cache_read_tokens: FactIndex,
    cache_write_tokens: FactIndex,
    reasoning_tokens: FactIndex,
    total_tokens: FactIndex,
    finish_reasons: FactIndex,
    streamed: FactIndex,
    time_to_first_token: FactIndex,
    time_per_output_token: FactIndex,
    response_id: FactIndex,
    error_type: FactIndex,
    service_tier: FactIndex,
    server_address: FactIndex,
    http_url: FactIndex,
}

impl Places {
    fn of(rules: &Rules) -> Self {
        Self {
            request_model: rules.fact("request_model"),
            response_model: rules.fact("response_model"),
            operation: rules.fact("operation"),
            provider: rules.fact("provider"),
            either_model: rules.fact("either_model"),
            answered: rules.fact("answered"),
            entity_name: rules.fact("entity_name"),
            agent_name: rules.fact("agent_name"),
            tool_name: rules.fact("tool_name"),
            workflow_name: rules.fact("workflow_name"),
            input_tokens: rules.fact("input_tokens"),
            uncached_input_tokens: rules.fact("uncached_input_tokens"),
            output_tokens: rules.fact("output_tokens"),
            visible_output_tokens: rules.fact("visible_output_tokens"),
            cache_read_tokens: rules.fact("cache_read_tokens"),
            cache_write_tokens: rules.fact("cache_write_tokens"),
            reasoning_tokens: rules.fact("reasoning_tokens"),
            total_tokens: rules.fact("total_tokens"),
            finish_reasons: rules.fact("finish_reasons"),
            streamed: rules.fact("streamed"),
            time_to_first_token: rules.fact("time_to_first_token_ns"),
            time_per_output_token: rules.fact("time_per_output_token_ns"),
            response_id: rules.fact("response_id"),
            error_type: rules.fact("error_type"),
            service_tier: rules.fact("service_tier"),
            server_address: rules.fact("server_address"),
            http_url: rules.fact("http_url"),
        }
    }
}

/// The rules, the prices, and what was looked up lately.
#[derive(Debug)]
pub(crate) struct Meaning {
    rules: Rules,
    pub(crate) places: Places,
    pricer: Arc<Pricer>,
    providers: Mutex<Vec<Spelling>>,
}

/// A provider as told, and its well-known name; none where what was told is none.
#[derive(Debug)]
struct Spelling {
    told: Box<[u8]>,
    provider: Option<Arc<str>>,
}

/// Spellings of providers remembered; a handful is in use anywhere.
const PROVIDERS_REMEMBERED: usize = 32;

/// Longer messages are no class of errors.
const ERROR_TYPE_BYTES_MAX: usize = 128;

/// An operation as read.
struct Doing<'f> {
    /// As the column has it.
    name: Option<Cow<'f, str>>,
    class: Class,
    /// Whether the column holds what was told.
    is_as_told: bool,
}

impl Meaning {
    pub(crate) fn new(rules: Rules, pricer: Arc<Pricer>) -> Self {
        let places = Places::of(&rules);
        Self { rules, places, pricer, providers: Mutex::new(Vec::new()) }
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(crate) fn pricer(&self) -> &Pricer {
        &self.pricer
    }

    /// What is known of a scope's emitter: places in [`Rules::emitters`].
    pub(crate) fn emitters_of(&self, scope_name: &[u8], scope_version: &[u8]) -> Vec<usize> {
        let (Ok(name), Ok(version)) = (std::str::from_utf8(scope_name), std::str::from_utf8(scope_version)) else {
            return Vec::new();
        };
        let emitters = self.rules.emitters.iter().enumerate();
        emitters.filter(|(_, emitter)| emitter.is_about(name, version)).map(|(at, _)| at).collect()
    }

    fn provider(&self, told: &[u8]) -> Option<Arc<str>> {
        let mut known = self.providers.lock();
        if let Some(spelling) = known.iter().find(|spelling| *spelling.told == *told) {
            return spelling.provider.clone();
        }
        let provider: Option<Arc<str>> =
            self.rules.providers.of_told(&String::from_utf8_lossy(told)).map(|provider| provider.into());
        if known.len() == PROVIDERS_REMEMBERED {
            known.clear();
        }
        known.push(Spelling { told: told.into(), provider: provider.clone() });
        provider
    }

    /// Writes the columns that tell what a span means. `held` gets the attributes that a column stands in for.
    pub(crate) fn write<'a>(
        &self,
        span: &SpanFacts<'_, 'a>,
        facts: &mut Facts<'a>,
        columns: &mut SpanColumns,
        held: &mut [u8],
        lately: &mut Lately,
    ) -> Told {
        if span.failed && facts.is_unknown(self.places.error_type) {
            write_error_type(span, columns);
        }
        if facts.is_empty() {
            return Told::default();
        }
        if !facts.is_genai() {
            return Told { promoted: facts.write(&self.rules, columns, span.attributes, held), note: None };
        }
        let places = &self.places;
        self.settle_models(span, facts);
        let telling = [
            places.operation,
            places.provider,
            places.response_model,
            places.request_model,
            places.input_tokens,
            places.output_tokens,
        ];
        if let Some(dialect) = facts.dialect(&self.rules, &telling) {
            set_text(columns, const { slot("dialect") }, dialect.as_bytes());
        }
        let Doing { name: operation, class, is_as_told } = self.operation(span, facts, lately);
        let (provider_bit, provider) = self.write_provider(span, facts, columns, held, (class, lately));
        self.settle_input(span, facts, provider.as_deref());
        self.settle_output(span, facts, provider.as_deref());
        let entity = match operation.as_deref() {
            Some("execute_tool") => Some(places.tool_name),
            Some("invoke_agent") => Some(places.agent_name),
            Some("invoke_workflow") => Some(places.workflow_name),
            _ => None,
        };
        if let Some(place) = entity {
            facts.copy(places.entity_name, place);
        }
        if let Some(operation) = &operation {
            set_text(columns, const { slot("operation") }, operation.as_bytes());
        }
        let operation_bit = self.hold_operation(span, facts, held, is_as_told);
        let model = facts.text(places.response_model).or_else(|| facts.text(places.request_model));
        if let Some(model) = model {
            set_text(columns, MODEL, model);
        }
        self.write_usage(span, facts, columns);
        let note = self.note(span, facts, class, (operation.as_deref(), provider.as_deref()), lately);
        let promoted = facts.write(&self.rules, columns, span.attributes, held) | provider_bit | operation_bit;
        Told { promoted, note }
    }

    /// Some producers have one name for the model, whichever they know: the one that answered, where one did.
    fn settle_models(&self, span: &SpanFacts<'_, '_>, facts: &mut Facts<'_>) {
        let places = &self.places;
        if facts.is_unknown(places.either_model) {
            return;
        }
        let signs = [places.output_tokens, places.finish_reasons, places.answered];
        let answered = !span.failed || signs.iter().any(|&sign| !facts.is_unknown(sign));
        facts.copy(places.either_model, if answered { places.response_model } else { places.request_model });
    }

    /// The operation, as told, or as the span's name tells.
    fn operation<'f, 'a: 'f>(&'f self, span: &SpanFacts<'_, 'a>, facts: &Facts<'a>, lately: &mut Lately) -> Doing<'f> {
        let named = || std::str::from_utf8(span.name).ok().and_then(|name| self.rules.operation_of_span(name));
        let emitters = || span.emitters.iter().map(|&at| &self.rules.emitters[at]);
        if let Some(told) = facts.any_str(self.places.operation) {
            let known = lately.operation(&told, || {
                let own = emitters().find_map(|emitter| emitter.operations.get(&told.to_lowercase()));
                self.rules.operation_at(own.map_or(&told, String::as_str))
            });
            let Some(known) = known.map(|at| self.rules.known_operation(at)) else {
                return Doing { name: Some(told), class: Class::Unknown, is_as_told: true };
            };
            if !known.name.is_empty() || known.class != Class::Unknown {
                let refined = if known.is_vague { named().filter(|named| named.class == Class::Call) } else { None };
                let known = refined.unwrap_or(known);
                let is_call = emitters().any(|emitter| emitter.calls.contains(&known.name));
                let class = if is_call { Class::Unknown } else { known.class };
                return Doing { name: name_of(known), class, is_as_told: known.name == told };
            }
        }
        let none = Doing { name: None, class: Class::Unknown, is_as_told: false };
        let Some(known) = named() else { return none };
        let places = &self.places;
        let signs = [places.request_model, places.response_model, places.input_tokens, places.output_tokens];
        if known.class == Class::Call && signs.iter().all(|&sign| facts.is_unknown(sign)) {
            return none;
        }
        if !known.name.is_empty() {
            facts.flag(flag::OPERATION_DERIVED);
        }
        Doing { name: name_of(known), class: known.class, is_as_told: false }
    }

    /// Takes the operation out of the facts: its column is written. Returns its bit of `promoted`.
    fn hold_operation<'a>(
        &self,
        span: &SpanFacts<'_, 'a>,
        facts: &mut Facts<'a>,
        held: &mut [u8],
        is_as_told: bool,
    ) -> i64 {
        let Some(found) = facts.take(self.places.operation) else { return 0 };
        let rule = &self.rules.facts[self.places.operation];
        let unchanged = is_as_told && found.holds(rule.read_as, span.attributes);
        hold(rule.promoted.filter(|_| unchanged), found.attribute(), held)
    }

    /// Writes the provider. Returns its bit of `promoted`, and the provider.
    fn write_provider<'a>(
        &self,
        span: &SpanFacts<'_, 'a>,
        facts: &mut Facts<'a>,
        columns: &mut SpanColumns,
        held: &mut [u8],
        (class, lately): (Class, &mut Lately),
    ) -> (i64, Option<Arc<str>>) {
        let places = &self.places;
        let told = facts.any_text(places.provider);
        let told = told.and_then(|told| Some((lately.provider(&told, || self.provider(&told))?, told)));
        let found = facts.take(places.provider);
        if let (Some((provider, told)), Some(found)) = (told, found) {
            set_text(columns, const { slot("provider") }, provider.as_bytes());
            let rule = &self.rules.facts[places.provider];
            let unchanged = provider.as_bytes() == &*told && found.holds(rule.read_as, span.attributes);
            return (hold(rule.promoted.filter(|_| unchanged), found.attribute(), held), Some(provider));
        }
        let model = || facts.str(places.response_model).or_else(|| facts.str(places.request_model));
        if class == Class::Part || model().is_none() {
            return (0, None);
        }
        let providers = &self.rules.providers;
        let mut hosts = [facts.str(places.server_address), facts.str(places.http_url)].into_iter().flatten();
        let Some(provider) = hosts.find_map(|host| providers.of_host(host)).or_else(|| providers.of_model(model()?))
        else {
            return (0, None);
        };
        facts.flag(flag::PROVIDER_DERIVED);
        set_text(columns, const { slot("provider") }, provider.as_bytes());
        (0, Some(provider.into()))
    }

    fn write_usage(&self, span: &SpanFacts<'_, '_>, facts: &Facts<'_>, columns: &mut SpanColumns) {
        let places = &self.places;
        let row = columns.rows;
        let (input, output) = (facts.int(places.input_tokens), facts.int(places.output_tokens));
        if facts.is_unknown(places.total_tokens)
            && let (Some(input), Some(output)) = (input, output)
            && let Some(total) = input.checked_add(output)
        {
            columns.ints[const { slot("total_tokens") }].set(row, total);
        }
        if let Some(found) = facts.found(places.input_tokens).or_else(|| facts.found(places.output_tokens)) {
            let source: &[u8] = match found.source {
                Source::Reported => b"reported",
                Source::RawUsage => b"raw_usage",
                Source::Event => b"event",
            };
            set_text(columns, const { slot("usage_source") }, source);
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

    /// What the span's role depends on; `None` where it can have none. The times and the scope are the walk's to add.
    fn note(
        &self,
        span: &SpanFacts<'_, '_>,
        facts: &Facts<'_>,
        class: Class,
        (operation, provider): (Option<&str>, Option<&str>),
        lately: &mut Lately,
    ) -> Option<Note> {
        let places = &self.places;
        let told = |place| !facts.is_unknown(place);
        let usage = (facts.int(places.input_tokens), facts.int(places.output_tokens));
        let usage = (usage.0.is_some() || usage.1.is_some()).then_some(usage);
        let names_model = provider.is_some() && (told(places.request_model) || told(places.response_model));
        if usage.is_none() && (class == Class::Part || class == Class::Unknown && !names_model) {
            return None;
        }
        let cost = if usage.is_some() && class != Class::Part {
            let cost = self.cost(span, facts, (operation, provider), &mut lately.answers);
            if cost.0 == Cost::OutOfRange {
                facts.flag(flag::COST_OUT_OF_RANGE);
            }
            Some(cost)
        } else {
            None
        };
        Some(Note {
            class,
            usage,
            names_model,
            failed: span.failed,
            response_id: facts.text(places.response_id).map_or(0, name_hash),
            cost,
            ..Note::default()
        })
    }

    /// The class of an operation, as its column has it, of a span with this name from this scope (name and version).
    pub(crate) fn class_of(&self, operation: Option<&str>, name: &str, scope: (&str, &str)) -> Class {
        let Some(operation) = operation else {
            return self.rules.operation_of_span(name).map_or(Class::Unknown, |known| known.class);
        };
        let Some(known) = self.rules.operation(operation) else { return Class::Unknown };
        let emitters = self.emitters_of(scope.0.as_bytes(), scope.1.as_bytes());
        let is_call = emitters.iter().any(|&at| self.rules.emitters[at].calls.contains(&known.name));
        if is_call { Class::Unknown } else { known.class }
    }

    /// What a call costs: by the model that answered, else by the one asked for.
    pub(crate) fn price(&self, models: [Option<&str>; 2], call: Call<'_>) -> (Cost, PricedBy) {
        self.price_lately(models, call, &mut Answers::default())
    }

    fn price_lately(&self, models: [Option<&str>; 2], call: Call<'_>, answers: &mut Answers) -> (Cost, PricedBy) {
        let mut known = (Cost::Unknown, PricedBy::BuiltIn);
        for model in models.into_iter().flatten() {
            let price = self.pricer.price_lately(&Call { model, ..call }, answers);
            // A negotiated price of the requested model beats a list price of the answered one.
            if known.0 == Cost::Unknown
                || price.0 != Cost::Unknown && (known.1, price.1) == (PricedBy::BuiltIn, PricedBy::Own)
            {
                known = price;
            }
            if known.0 != Cost::Unknown && !self.pricer.has_own() {
                break;
            }
        }
        known
    }

    fn cost(
        &self,
        span: &SpanFacts<'_, '_>,
        facts: &Facts<'_>,
        (operation, provider): (Option<&str>, Option<&str>),
        answers: &mut Answers,
    ) -> (Cost, PricedBy) {
        let places = &self.places;
        let models = [facts.str(places.response_model), facts.str(places.request_model)];
        let call = Call {
            provider,
            model: "",
            operation,
            time_unix_nano: span.start_unix_nano,
            input_tokens: facts.int(places.input_tokens),
            output_tokens: facts.int(places.output_tokens),
            cache_read_tokens: facts.int(places.cache_read_tokens),
            cache_write_tokens: facts.int(places.cache_write_tokens),
            reasoning_tokens: facts.int(places.reasoning_tokens),
            service_tier: facts.str(places.service_tier),
        };
        self.price_lately(models, call, answers)
    }
}

fn name_of(operation: &Operation) -> Option<Cow<'_, str>> {
    (!operation.name.is_empty()).then_some(Cow::Borrowed(operation.name.as_str()))
}

/// Notes that a column stands in for an attribute. Returns the bit of `promoted`.
fn hold(promoted: Option<u8>, attribute: usize, held: &mut [u8]) -> i64 {
    let Some(place) = promoted else { return 0 };
    held[attribute] = place + 1;
    1i64 << place
}

/// The class of an error that no attribute tells: that of the exception, or what the status message begins with.
fn write_error_type(span: &SpanFacts<'_, '_>, columns: &mut SpanColumns) {
    let at = const { slot("error_type") };
    if let Some(exception) = span.exception.filter(|exception| !exception.is_empty()) {
        set_text(columns, at, exception);
        return;
    }
    let message = span.status_message.trim_ascii();
    let line = message.split(|&byte| byte == b'\n').next().unwrap_or(message);
    let head = line.split(|&byte| byte == b':').next().unwrap_or(line);
    let is_name =
        |text: &[u8]| !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte));
    if is_name(head) && head.len() <= ERROR_TYPE_BYTES_MAX {
        set_text(columns, at, head);
    } else if let Some(status) = failure::http_status(line) {
        set_text(columns, at, status);
    } else if !line.is_empty() && line.len() <= ERROR_TYPE_BYTES_MAX {
        set_text(columns, at, line);
    }
}
