//! Calls of language models, tools and databases, with the attributes of OpenTelemetry's GenAI conventions.

use std::ops::Range;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use super::models::{EMBEDDING, GPT_4O_MINI, Model};
use super::random::Random;
use super::traffic::{Facts, Service, Trace, boolean, double, int, text, texts};

pub(super) const MILLISECOND: u64 = 1_000_000;

/// Who calls, and from where in the trace.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) service: Service,
    pub(super) parent: Vec<u8>,
    /// Attributes that every call of this caller carries: conversation, user, agent.
    pub(super) context: Vec<KeyValue>,
}

/// What is asked of a model.
#[derive(Clone, Debug)]
pub(super) struct Chat {
    pub(super) model: &'static Model,
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) cache_read_tokens: u64,
    pub(super) cache_write_tokens: u64,
    pub(super) reasoning_tokens: u64,
    pub(super) is_streamed: bool,
    pub(super) finish_reason: &'static str,
    /// Question and answer, where the application records them.
    pub(super) content: Option<(&'static str, &'static str)>,
}

impl Chat {
    pub(super) fn new(model: &'static Model, input_tokens: u64, output_tokens: u64) -> Self {
        Self {
            model,
            input_tokens,
            output_tokens,
            cache_read_tokens: 0,
            cache_write_tokens: 0,
            reasoning_tokens: 0,
            is_streamed: false,
            finish_reason: model.stop_reason,
            content: None,
        }
    }
}

/// Calls a model, once more after a refusal, and returns when the last answer came and whether it was a good one.
pub(super) fn chat(random: &mut Random, trace: &mut Trace, caller: &Caller, at: u64, chat: &Chat) -> (u64, bool) {
    let is_overloaded = trace.is_incident && chat.model.provider == GPT_4O_MINI.provider;
    let refused = if is_overloaded { 0.45 } else { 0.012 };
    let mut at = at;
    for _ in 0..3 {
        if !random.chance(refused) {
            return answered(random, trace, caller, at, chat);
        }
        let end = at + random.between(40, 220) * MILLISECOND;
        let error = format!("429 Too Many Requests: rate limit reached for {}", chat.model.request);
        let mut attributes = request_attributes(caller, chat);
        attributes.push(text("error.type", "429"));
        push_call(random, trace, caller, (chat, at..end), Some(error), attributes);
        // The client library waits before it tries again.
        at = end + random.between(400, 1_600) * MILLISECOND;
    }
    (at, false)
}

fn answered(random: &mut Random, trace: &mut Trace, caller: &Caller, at: u64, chat: &Chat) -> (u64, bool) {
    let to_nano = |millis: f64| (millis * 1e6) as u64;
    // Long prompts take longer to read, unless the provider has read them before.
    let unread = chat.input_tokens.saturating_sub(chat.cache_read_tokens) as f64;
    let first = to_nano(random.skewed(chat.model.first_token_ms + unread * 0.03, 0.35));
    let rest = to_nano(random.skewed(chat.model.token_ms, 0.2) * chat.output_tokens as f64);
    let end = at + first + rest;
    let mut attributes = request_attributes(caller, chat);
    if random.chance(0.003) {
        attributes.push(text("error.type", "timeout"));
        let end = at + 60_000 * MILLISECOND;
        let error = Some("request timed out after 60 s".to_owned());
        push_call(random, trace, caller, (chat, at..end), error, attributes);
        return (end, false);
    }
    attributes.extend([
        text("gen_ai.response.model", chat.model.response),
        text("gen_ai.response.id", format!("{}{:016x}", chat.model.id_prefix, random.next())),
        texts("gen_ai.response.finish_reasons", &[chat.finish_reason]),
        int("gen_ai.usage.input_tokens", chat.input_tokens),
        int("gen_ai.usage.output_tokens", chat.output_tokens),
    ]);
    for (name, tokens) in [
        ("gen_ai.usage.cache_read.input_tokens", chat.cache_read_tokens),
        ("gen_ai.usage.cache_creation.input_tokens", chat.cache_write_tokens),
        ("gen_ai.usage.reasoning.output_tokens", chat.reasoning_tokens),
    ] {
        if tokens > 0 {
            attributes.push(int(name, tokens));
        }
    }
    if chat.is_streamed {
        attributes.push(double("gen_ai.response.time_to_first_chunk", first as f64 / 1e9));
    }
    if let Some((question, answer)) = chat.content {
        let message = |role: &str, words: &str| {
            serde_json::json!([{ "role": role, "parts": [{ "type": "text", "content": words }] }]).to_string()
        };
        attributes.push(text("gen_ai.input.messages", message("user", question)));
        attributes.push(text("gen_ai.output.messages", message("assistant", answer)));
    }
    push_call(random, trace, caller, (chat, at..end), None, attributes);
    (end, true)
}

fn request_attributes(caller: &Caller, chat: &Chat) -> Vec<KeyValue> {
    let mut attributes = vec![
        text("gen_ai.operation.name", "chat"),
        text("gen_ai.provider.name", chat.model.provider),
        text("gen_ai.request.model", chat.model.request),
        text("server.address", chat.model.address),
        int("server.port", chat.model.port),
        double("gen_ai.request.temperature", 0.2),
        int("gen_ai.request.max_tokens", 4_096),
        boolean("gen_ai.request.stream", chat.is_streamed),
    ];
    attributes.extend(caller.context.iter().cloned());
    attributes
}

fn push_call(
    random: &mut Random,
    trace: &mut Trace,
    caller: &Caller,
    (chat, time): (&Chat, Range<u64>),
    error: Option<String>,
    attributes: Vec<KeyValue>,
) {
    let facts = Facts {
        id: random.bytes::<8>(),
        parent: caller.parent.clone(),
        name: format!("chat {}", chat.model.request),
        kind: SpanKind::Client,
        time,
        error,
        attributes,
    };
    trace.push(caller.service, facts);
}

/// Turns a text into a vector; returns the end.
pub(super) fn embed(random: &mut Random, trace: &mut Trace, caller: &Caller, at: u64) -> u64 {
    let end = at + (random.skewed(EMBEDDING.first_token_ms, 0.3) * 1e6) as u64;
    let mut attributes = vec![
        text("gen_ai.operation.name", "embeddings"),
        text("gen_ai.provider.name", EMBEDDING.provider),
        text("gen_ai.request.model", EMBEDDING.request),
        text("gen_ai.response.model", EMBEDDING.response),
        int("gen_ai.embeddings.dimension.count", 1_536),
        int("gen_ai.usage.input_tokens", random.between(6, 60)),
        text("server.address", EMBEDDING.address),
        int("server.port", EMBEDDING.port),
    ];
    attributes.extend(caller.context.iter().cloned());
    let facts = Facts {
        id: random.bytes::<8>(),
        parent: caller.parent.clone(),
        name: format!("embeddings {}", EMBEDDING.request),
        kind: SpanKind::Client,
        time: at..end,
        error: None,
        attributes,
    };
    trace.push(caller.service, facts);
    end
}

/// Asks a database; returns the end.
pub(super) fn query(random: &mut Random, trace: &mut Trace, caller: &Caller, at: u64, statement: &str) -> u64 {
    let end = at + (random.skewed(7.0, 0.6) * 1e6) as u64;
    let operation = statement.split(' ').next().unwrap_or_default();
    let facts = Facts {
        id: random.bytes::<8>(),
        parent: caller.parent.clone(),
        name: format!("{operation} acme"),
        kind: SpanKind::Client,
        time: at..end,
        error: None,
        attributes: vec![
            text("db.system.name", "postgresql"),
            text("db.namespace", "acme"),
            text("db.operation.name", operation),
            text("db.query.text", statement),
            text("server.address", "db.internal"),
            int("server.port", 5_432),
        ],
    };
    trace.push(caller.service, facts);
    end
}
