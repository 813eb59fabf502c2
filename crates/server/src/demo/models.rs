//! The models of the demo and how they behave.

/// A model as its provider serves it.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) provider: &'static str,
    pub(super) request: &'static str,
    pub(super) response: &'static str,
    pub(super) address: &'static str,
    pub(super) port: i64,
    /// What response ids begin with.
    pub(super) id_prefix: &'static str,
    /// How this provider says that an answer is complete.
    pub(super) stop_reason: &'static str,
    /// Median time to the first token.
    pub(super) first_token_ms: f64,
    /// Median time of each further token.
    pub(super) token_ms: f64,
}

pub(super) static GPT_4O_MINI: Model = Model {
    provider: "openai",
    request: "gpt-4o-mini",
    response: "gpt-4o-mini-2024-07-18",
    address: "api.openai.com",
    port: 443,
    id_prefix: "chatcmpl-",
    stop_reason: "stop",
    first_token_ms: 380.0,
    token_ms: 9.0,
};

pub(super) static GPT_4O: Model =
    Model { request: "gpt-4o", response: "gpt-4o-2024-08-06", first_token_ms: 520.0, token_ms: 14.0, ..GPT_4O_MINI };

pub(super) static EMBEDDING: Model = Model {
    request: "text-embedding-3-small",
    response: "text-embedding-3-small",
    id_prefix: "",
    first_token_ms: 90.0,
    token_ms: 0.0,
    ..GPT_4O_MINI
};

pub(super) static CLAUDE_SONNET: Model = Model {
    provider: "anthropic",
    request: "claude-sonnet-4-20250514",
    response: "claude-sonnet-4-20250514",
    address: "api.anthropic.com",
    id_prefix: "msg_",
    stop_reason: "end_turn",
    first_token_ms: 900.0,
    token_ms: 16.0,
    ..GPT_4O_MINI
};

pub(super) static GEMINI_FLASH: Model = Model {
    provider: "gcp.gemini",
    request: "gemini-2.5-flash",
    response: "gemini-2.5-flash",
    address: "generativelanguage.googleapis.com",
    id_prefix: "gem-",
    stop_reason: "STOP",
    first_token_ms: 450.0,
    token_ms: 5.0,
    ..GPT_4O_MINI
};

/// Served by its users themselves, so that nobody knows a price.
pub(super) static GUARD: Model = Model {
    provider: "vllm",
    request: "acme/guard-8b",
    response: "acme/guard-8b",
    address: "guard.internal",
    port: 8000,
    id_prefix: "cmpl-",
    first_token_ms: 60.0,
    token_ms: 4.0,
    ..GPT_4O_MINI
};
