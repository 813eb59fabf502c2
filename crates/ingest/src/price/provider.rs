//! Our providers' names and the catalogue's.

use std::borrow::Cow;

/// A provider and model to ask the catalogue for. Its own aliases apply: `gcp.vertex_ai` is its `google`.
pub(super) type Candidate<'a> = (Cow<'a, str>, &'a str);

/// For this provider the catalogue takes the provider from the model's name: its prefix, as in `anthropic/claude-…`,
/// or the family that only one provider has.
const BY_MODEL: &str = "litellm";

/// Values of `provider` that name a library or nothing at all.
const NO_PROVIDERS: [&str; 9] =
    ["", "_other", "other", "unknown", "langchain", "langgraph", "litellm", "llama_index", "llamaindex"];

/// What to ask the catalogue for, in this order, until it knows one.
///
/// With a provider, only that provider is asked (and those whose models it resells, as the catalogue has it: Azure
/// sells OpenAI's). The model may carry a path, such as an ARN or `models/…`: its last part is tried as well. Without
/// one, the provider is taken from the model's name; the older models of OpenAI and those of Cohere have no family name
/// that the catalogue would recognise.
pub(super) fn candidates<'a>(provider: Option<&'a str>, model: &'a str) -> Vec<Candidate<'a>> {
    let provider = provider.map(|name| name.trim().to_ascii_lowercase()).unwrap_or_default();
    if NO_PROVIDERS.contains(&provider.as_str()) {
        return [BY_MODEL, "openai", "cohere"].map(|id| (id.into(), model)).into();
    }
    let id = catalogue_id(provider);
    let last_part = model.rsplit_once('/').map(|(_, last)| (id.clone(), last));
    std::iter::once((id, model)).chain(last_part).collect()
}

fn catalogue_id<'a>(provider: String) -> Cow<'a, str> {
    let id = match provider.as_str() {
        // Azure first: the catalogue would take whatever contains `openai` for OpenAI.
        name if name.starts_with("azure") || name.starts_with("az.ai") => "azure",
        name if name.starts_with("gcp.") => "google",
        "x_ai" | "x.ai" => "x-ai",
        "together_ai" | "together.ai" => "together",
        "fireworks_ai" | "fireworks.ai" => "fireworks",
        "z_ai" | "z.ai" => "zai",
        "zhipu" | "zhipu_ai" => "zhipuai",
        _ => return provider.into(),
    };
    id.into()
}
