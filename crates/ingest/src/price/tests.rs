use std::time::{Duration, UNIX_EPOCH};

use genai_prices::{PriceRequest, Usage, UsageKey};
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::sample::select;

use super::*;

/// 2026-11-20T00:00:00Z.
const DAY_NS: u64 = 1_795_132_800_000_000_000;
const MINUTE_NS: u64 = 60_000_000_000;

fn call<'a>(provider: &'a str, model: &'a str, input_tokens: i64, output_tokens: i64) -> Call<'a> {
    Call {
        provider: Some(provider),
        model,
        time_unix_nano: DAY_NS,
        input_tokens: Some(input_tokens),
        output_tokens: Some(output_tokens),
        ..Call::default()
    }
}

/// What the catalogue itself says, under its own names.
fn price_by_library(catalogue: &Calculator, provider: &str, model: &str, call: &Call<'_>) -> Option<f64> {
    let mut usage = Usage::new();
    let counts = [
        (UsageKey::INPUT_TOKENS, call.input_tokens),
        (UsageKey::OUTPUT_TOKENS, call.output_tokens),
        (UsageKey::CACHE_READ_TOKENS, call.cache_read_tokens),
        (UsageKey::CACHE_WRITE_TOKENS, call.cache_write_tokens),
    ];
    for (key, count) in counts {
        if let Some(count) = count {
            usage.insert(key, count as f64);
        }
    }
    let mut request = PriceRequest::new(model, &usage)
        .with_provider_id(provider)
        .with_timestamp(UNIX_EPOCH + Duration::from_nanos(call.time_unix_nano));
    if let Some(tier) = call.service_tier {
        let key = if tier == "batch" { "processing" } else { "service_tier" };
        request = request.with_price_context(key, tier);
    }
    catalogue.calculate(&request).ok().map(|price| price.total_price)
}

#[track_caller]
fn assert_is(cost: Cost, usd: f64, call: &Call<'_>) {
    match cost {
        Cost::Usd(units) => {
            let difference = (units as f64 * 1e-12 - usd).abs();
            assert!(difference <= 1e-12 + usd * 1e-12, "{units} units instead of {usd} dollars for {call:?}");
        }
        Cost::OutOfRange => assert!(usd >= 999_999.999, "out of range instead of {usd} dollars for {call:?}"),
        Cost::Unknown => panic!("unknown instead of {usd} dollars for {call:?}"),
    }
}

/// Our provider and model, and the catalogue's.
const MODELS: [(Option<&str>, &str, &str, &str); 44] = [
    (Some("openai"), "gpt-4o", "openai", "gpt-4o"),
    (Some("openai"), "gpt-4o-mini-2024-07-18", "openai", "gpt-4o-mini"),
    (Some("openai"), "gpt-4.1-mini-2025-04-14", "openai", "gpt-4.1-mini"),
    (Some("openai"), "gpt-5.4", "openai", "gpt-5.4"),
    (Some("openai"), "gpt-5.5-2026-04-23", "openai", "gpt-5.5"),
    (Some("openai"), "o3", "openai", "o3"),
    (Some("openai"), "o3-mini", "openai", "o3-mini"),
    (Some("openai"), "text-davinci-003", "openai", "text-davinci-003"),
    (Some("openai"), "gpt-3.5-turbo-0613", "openai", "gpt-3.5-turbo-0613"),
    (Some("openai"), "gpt-4-32k", "openai", "gpt-4-32k"),
    (Some("openai"), "text-embedding-3-small", "openai", "text-embedding-3-small"),
    (Some("openai"), "openai/gpt-4o", "openai", "gpt-4o"),
    (Some("OpenAI"), "GPT-4o", "openai", "gpt-4o"),
    (None, "gpt-4o", "openai", "gpt-4o"),
    (None, "text-davinci-003", "openai", "text-davinci-003"),
    (None, "text-embedding-3-large", "openai", "text-embedding-3-large"),
    (Some("langchain"), "o4-mini", "openai", "o4-mini"),
    (Some("anthropic"), "claude-sonnet-4-20250514", "anthropic", "claude-sonnet-4-20250514"),
    (Some("anthropic"), "claude-opus-4-5", "anthropic", "claude-opus-4-5"),
    (Some("anthropic"), "claude-haiku-4-5-20251001", "anthropic", "claude-haiku-4-5"),
    (None, "claude-3-haiku-20240307", "anthropic", "claude-3-haiku-20240307"),
    (None, "anthropic/claude-sonnet-4-20250514", "anthropic", "claude-sonnet-4-20250514"),
    (
        Some("aws.bedrock"),
        "us.anthropic.claude-sonnet-4-20250514-v1:0",
        "aws",
        "anthropic.claude-sonnet-4-20250514-v1:0",
    ),
    (Some("aws.bedrock"), "amazon.nova-pro-v1:0", "aws", "amazon.nova-pro-v1:0"),
    (Some("aws.bedrock"), "amazon.titan-embed-text-v2:0", "aws", "amazon.titan-embed-text-v2:0"),
    (Some("azure.ai.openai"), "gpt-4o", "azure", "gpt-4o"),
    (Some("az.ai.openai"), "gpt-5", "azure", "gpt-5"),
    (Some("azure.ai.inference"), "deepseek-r1", "azure", "deepseek-r1"),
    (Some("gcp.gemini"), "gemini-2.5-pro", "google", "gemini-2.5-pro"),
    (Some("gcp.gen_ai"), "models/gemini-2.5-flash", "google", "gemini-2.5-flash"),
    (Some("gcp.vertex_ai"), "claude-sonnet-4@20250514", "google", "claude-sonnet-4@20250514"),
    (Some("mistral_ai"), "mistral-large-latest", "mistral", "mistral-large-latest"),
    (Some("moonshot_ai"), "moonshot-v1-8k", "moonshotai", "moonshot-v1-8k"),
    (Some("x_ai"), "grok-4", "x-ai", "grok-4"),
    (Some("groq"), "llama-3.3-70b-versatile", "groq", "llama-3.3-70b-versatile"),
    (Some("deepseek"), "deepseek-chat", "deepseek", "deepseek-chat"),
    (Some("deepseek"), "deepseek-v4-pro", "deepseek", "deepseek-v4-pro"),
    (Some("cohere"), "command-r-plus", "cohere", "command-r-plus"),
    (Some("cohere"), "embed-v4.0", "cohere", "embed-v4.0"),
    (Some("perplexity"), "sonar-pro", "perplexity", "sonar-pro"),
    (
        Some("together_ai"),
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
        "together",
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    ),
    (
        Some("fireworks_ai"),
        "accounts/fireworks/models/llama-v3p1-8b-instruct",
        "fireworks",
        "accounts/fireworks/models/llama-v3p1-8b-instruct",
    ),
    (Some("openrouter"), "qwen/qwen3-coder-flash", "openrouter", "qwen/qwen3-coder-flash"),
    (Some("openrouter"), "google/gemini-2.5-flash", "openrouter", "google/gemini-2.5-flash"),
];

fn count() -> impl Strategy<Value = i64> {
    const EDGES: [i64; 10] =
        [32_000, 100_000, 128_000, 200_000, 256_000, 272_000, 512_000, 1_000_000, 1_048_576, 4_194_304];
    prop_oneof![
        3 => 0..5_000_i64,
        2 => 0..300_000_i64,
        2 => (select(EDGES.as_slice()), -2..3_i64).prop_map(|(edge, by)| edge + by),
        1 => 0..20_000_000_i64,
        1 => 0..2_000_000_000_000_i64,
    ]
}

fn time() -> impl Strategy<Value = u64> {
    // From 2024 on, over the changes of prices that the catalogue knows and plans.
    const START: u64 = 1_704_067_200_000_000_000;
    let quarter = 15 * MINUTE_NS;
    prop_oneof![
        (0..1_300 * 24 * 60 * MINUTE_NS).prop_map(|after| START + after),
        (0..1_300 * 24 * 4_u64, -1..2_i64)
            .prop_map(move |(quarters, by)| (START + quarters * quarter).strict_add_signed(by)),
        any::<u64>(),
    ]
}

proptest! {
    #[test]
    fn a_cost_is_what_the_catalogue_says(
        model in select(MODELS.as_slice()),
        input in count(),
        output in count(),
        (read, write) in (option::of(0.0..0.6), option::of(0.0..0.4)),
        time_unix_nano in time(),
        service_tier in prop_oneof![
            2 => Just(None),
            1 => select(["default", "flex", "priority", "fast", "batch", "auto", "unheard-of"].as_slice()).prop_map(Some),
        ],
    ) {
        static PRICER: std::sync::LazyLock<Pricer> = std::sync::LazyLock::new(Pricer::new);
        let (provider, name, library_provider, library_model) = model;
        let share = |part: Option<f64>| part.map(|part| (part * input as f64) as i64);
        let call = Call {
            provider,
            model: name,
            operation: None,
            service_tier,
            time_unix_nano,
            input_tokens: Some(input),
            output_tokens: Some(output),
            cache_read_tokens: share(read),
            cache_write_tokens: share(write),
            reasoning_tokens: None,
        };
        let expected = price_by_library(Calculator::bundled(), library_provider, library_model, &call)
            .unwrap_or_else(|| panic!("the catalogue does not know {model:?}"));
        for _ in 0..2 {
            assert_is(PRICER.cost(&call), expected, &call);
        }
    }
}

#[test]
fn every_model_of_the_catalogue_costs_what_the_catalogue_says() {
    let (pricer, catalogue) = (Pricer::new(), Calculator::bundled());
    let (mut priced, mut unpriced) = (0, 0);
    for provider in catalogue.providers() {
        for model in provider.models() {
            let call = Call {
                cache_read_tokens: Some(2_000),
                cache_write_tokens: Some(300),
                ..call(provider.id(), model.id(), 150_000, 1_000)
            };
            let Some(expected) = price_by_library(catalogue, provider.id(), model.id(), &call) else { continue };
            if expected > 0.0 || model.id().ends_with(":free") {
                assert_is(pricer.cost(&call), expected, &call);
                priced += 1;
            } else {
                assert_eq!(pricer.cost(&call), Cost::Unknown, "{call:?}");
                unpriced += 1;
            }
        }
    }
    assert!(priced > 1_500 && unpriced > 10, "{priced} priced, {unpriced} not");
    // Nearly all were priced by rates rather than by asking for each call.
    let known = pricer.resolved.read();
    let others = known.iter().filter(|(_, resolved)| matches!(resolved, Resolved::Other { .. })).count();
    assert!(others * 100 < known.len(), "{others} of {} are not linear", known.len());
}

#[test]
fn known_prices_are_met_to_the_last_digit() {
    let pricer = Pricer::new();
    let usd = |call: Call<'_>| match pricer.cost(&call) {
        Cost::Usd(units) => units,
        other => panic!("{other:?} for {call:?}"),
    };
    assert_eq!(usd(call("openai", "gpt-4o-mini", 1_000, 500)), 450_000_000);
    assert_eq!(usd(call("openai", "text-davinci-003", 1_000, 1_000)), 40_000_000_000);
    assert_eq!(usd(call("openai", "gpt-4-32k", 1_000, 1_000)), 180_000_000_000);
    assert_eq!(usd(call("openai", "gpt-4o", 0, 0)), 0);
    assert_eq!(usd(call("openai", "gpt-4o-mini", 1, 0)), 150_000);
    let cached = Call { cache_read_tokens: Some(8_000), cache_write_tokens: Some(1_000), ..Call::default() };
    let claude = call("anthropic", "claude-sonnet-4-20250514", 10_000, 500);
    assert_eq!(usd(claude), 37_500_000_000);
    let claude =
        Call { cache_read_tokens: cached.cache_read_tokens, cache_write_tokens: cached.cache_write_tokens, ..claude };
    assert_eq!(usd(claude), 16_650_000_000);
    // Beyond 200,000 tokens the whole prompt costs more.
    assert_eq!(usd(call("gcp.gemini", "gemini-2.5-pro", 200_000, 1_000)), 260_000_000_000);
    assert_eq!(usd(call("gcp.gemini", "gemini-2.5-pro", 200_001, 1_000)), 515_002_500_000);
    // Each request costs something by itself.
    assert_eq!(usd(call("perplexity", "sonar", 100, 100)), 12_200_000_000);
    assert_eq!(usd(call("openrouter", "meta-llama/llama-3.1-8b-instruct:free", 100, 100)), 0);
}

#[test]
fn prices_follow_date_hour_and_tier() {
    let pricer = Pricer::new();
    let at = |time_unix_nano, call| pricer.cost(&Call { time_unix_nano, ..call });
    let deepseek = call("deepseek", "deepseek-chat", 1_000_000, 0);
    assert_eq!(at(DAY_NS + 30 * MINUTE_NS - 1, deepseek), Cost::Usd(135_000_000_000));
    assert_eq!(at(DAY_NS + 30 * MINUTE_NS, deepseek), Cost::Usd(270_000_000_000));
    assert_eq!(at(DAY_NS + 990 * MINUTE_NS - 1, deepseek), Cost::Usd(270_000_000_000));
    assert_eq!(at(DAY_NS + 990 * MINUTE_NS, deepseek), Cost::Usd(135_000_000_000));
    // o3 became cheaper on 2025-06-10.
    let o3 = call("openai", "o3", 1_000, 1_000);
    assert_eq!(at(1_749_513_600_000_000_000 - 1, o3), Cost::Usd(50_000_000_000));
    assert_eq!(at(1_749_513_600_000_000_000, o3), Cost::Usd(10_000_000_000));
    let tier = |service_tier| pricer.cost(&Call { service_tier: Some(service_tier), ..o3 });
    assert_eq!(tier("flex"), Cost::Usd(5_000_000_000));
    assert_eq!(tier("batch"), Cost::Usd(5_000_000_000));
    assert_eq!(tier("default"), Cost::Usd(10_000_000_000));
    assert_eq!(tier("unheard-of"), Cost::Usd(10_000_000_000));
}

#[test]
fn what_is_unknown_is_not_zero() {
    let pricer = Pricer::new();
    let good = call("openai", "gpt-4o", 1_000, 100);
    assert_eq!(pricer.cost(&good), Cost::Usd(3_500_000_000));
    let unknown = [
        Call { input_tokens: None, output_tokens: None, ..good },
        Call { input_tokens: None, ..good },
        Call { output_tokens: None, ..good },
        Call { output_tokens: None, operation: Some("chat"), ..good },
        Call { input_tokens: Some(-1), ..good },
        Call { output_tokens: Some(-1), ..good },
        Call { cache_read_tokens: Some(-1), ..good },
        Call { cache_write_tokens: Some(i64::MIN), ..good },
        Call { cache_read_tokens: Some(1_001), ..good },
        Call { cache_read_tokens: Some(600), cache_write_tokens: Some(401), ..good },
        Call { cache_read_tokens: Some(i64::MAX), cache_write_tokens: Some(i64::MAX), ..good },
        Call { model: "", ..good },
        Call { model: "no-such-model", ..good },
        Call { model: &"gpt-4o".repeat(1_000), ..good },
        Call { provider: None, model: "llama-in-the-cellar", ..good },
        // The model is OpenAI's, but it does not run there.
        Call { provider: Some("ollama"), ..good },
        Call { provider: Some("ibm.watsonx.ai"), ..good },
        // Priced by the minute, not by the token.
        Call { model: "whisper-1", ..good },
        // The catalogue lists it without any price.
        Call { model: "moderation", ..good },
    ];
    for call in unknown {
        assert_eq!(pricer.cost(&call), Cost::Unknown, "{call:?}");
    }
}

#[test]
fn embeddings_need_no_output() {
    let pricer = Pricer::new();
    let embedding = Call { output_tokens: None, ..call("openai", "text-embedding-3-small", 1_000, 0) };
    assert_eq!(pricer.cost(&embedding), Cost::Usd(20_000_000));
    assert_eq!(pricer.cost(&Call { operation: Some("embeddings"), ..embedding }), Cost::Usd(20_000_000));
    let by_a_chat_model = Call { operation: Some("embeddings"), model: "gpt-4o", ..embedding };
    assert_eq!(pricer.cost(&by_a_chat_model), Cost::Usd(2_500_000_000));
    assert_eq!(pricer.cost(&Call { input_tokens: None, ..embedding }), Cost::Unknown);
}

#[test]
fn a_million_dollars_are_out_of_range() {
    let pricer = Pricer::new();
    let tokens = |input, output| pricer.cost(&call("openai", "gpt-4o-mini", input, output));
    assert_eq!(tokens(0, 1_666_666_666_666), Cost::Usd(999_999_999_999_600_000));
    assert_eq!(tokens(0, 1_666_666_666_667), Cost::OutOfRange);
    assert_eq!(tokens(i64::MAX, 0), Cost::OutOfRange);
    assert_eq!(tokens(i64::MAX, i64::MAX), Cost::OutOfRange);
}

/// A catalogue whose prices change where the built-in one's do not.
fn odd_catalogue() -> &'static Calculator {
    let json = r#"[{"id": "acme", "name": "Acme", "api_pattern": "acme", "models": [
        {"id": "tiers", "match": {"equals": "tiers"}, "prices": {
            "input_mtok": {"base": 1, "tiers": [{"start": 1234, "price": 2}]},
            "output_mtok": {"base": 3, "tiers": [{"start": 1234, "price": 4}]}}},
        {"id": "hours", "match": {"equals": "hours"}, "prices": [
            {"prices": {"input_mtok": 1, "output_mtok": 3}},
            {"constraint": {"start_time": "12:07:00Z", "end_time": "18:20:00Z"},
             "prices": {"input_mtok": 2, "output_mtok": 4}}]}]}]"#;
    Box::leak(Box::new(Calculator::from_json(json).expect("a good catalogue")))
}

#[test]
fn prices_that_change_at_odd_places_are_asked_for() {
    let catalogue = odd_catalogue();
    let pricer = Pricer::with_catalogue(catalogue);
    for input in [1, 1_233, 1_234, 1_235, 20_000, 32_000, 32_001, 4_194_305, 100_000_000] {
        let call = call("acme", "tiers", input, 1_000);
        let expected = price_by_library(catalogue, "acme", "tiers", &call).unwrap();
        assert_is(pricer.cost(&call), expected, &call);
        assert_eq!(pricer.cost(&Call { output_tokens: None, ..call }), Cost::Unknown);
    }
    let noon = DAY_NS + 12 * 60 * MINUTE_NS;
    for (minute, expected) in [(0, 1), (7, 1), (8, 2), (15, 2), (60, 2), (380, 2), (381, 1), (400, 1)] {
        let call = Call { time_unix_nano: noon + minute * MINUTE_NS - 1, ..call("acme", "hours", 1_000, 0) };
        assert_eq!(pricer.cost(&call), Cost::Usd(expected * 1_000_000_000));
    }
}

#[test]
fn made_up_names_do_not_fill_the_memory() {
    let pricer = Pricer::new();
    let good = call("groq", "llama-3.3-70b-versatile", 1_000, 100);
    let expected = pricer.cost(&good);
    for number in 0..RESOLVED_MAX + 100 {
        let model = format!("made-up-{number}");
        assert_eq!(pricer.cost(&Call { provider: Some("nobody"), model: &model, ..good }), Cost::Unknown);
    }
    assert!(pricer.resolved.read().len() <= RESOLVED_MAX);
    assert_eq!(pricer.cost(&good), expected);
}

#[test]
fn threads_share_a_pricer() {
    let pricer = Pricer::new();
    let models = ["gpt-4o", "gpt-4o-mini", "o3", "no-such-model"];
    let costs: Vec<Vec<Cost>> = std::thread::scope(|scope| {
        let price = || {
            let calls = (0..200).map(|number| call("openai", models[number % models.len()], number as i64, 7));
            calls.map(|call| pricer.cost(&call)).collect()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(price)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    assert!(costs.iter().all(|of_one| *of_one == costs[0]));
    assert_eq!(pricer.resolved.read().len(), models.len());
}

#[test]
fn the_source_is_the_catalogue_that_is_built_in() {
    let (name, version) = SOURCE.split_once(' ').unwrap();
    let locked = format!("name = \"{name}\"\nversion = \"{version}\"\n");
    assert!(
        include_str!("../../../../Cargo.lock").replace("\r\n", "\n").contains(&locked),
        "the catalogue is another one than {SOURCE}: correct the name and raise PRICES_VERSION"
    );
}

/// Prices of 2023, in US dollars for a thousand tokens, as an article has them.
const OF_2023: &str = r#"
name = "article of 2023"
[[price]]
model = "gpt-4"
provider = "openai"
per_tokens = 1000
input = "0.03"
output = "0.06"
[[price]]
model = "gpt-4-32k"
per_tokens = 1000
input = 0.06
output = 0.12
[[price]]
model = "gpt-3.5-turbo"
per_tokens = 1000
input = 0.002
output = 0.002
[[price]]
model = "*davinci*"
per_tokens = 1000
input = 0.02
output = 0.02
[[price]]
model = "*curie*"
per_tokens = 1000
input = 0.002
output = 0.002
[[price]]
model = "*babbage*"
per_tokens = 1000
input = 0.0005
output = 0.0005
[[price]]
model = "*ada*"
per_tokens = 1000
input = 0.0004
output = 0.0004
"#;

/// Scenario: a catalogue of the user's own with the prices of an article. Guarantee: every price of it is met to the last
/// digit, it beats the built-in one, and what it does not have is priced by that.
#[test]
fn a_users_catalogue_comes_first() {
    let pricer = Pricer::with_own("prices.toml", OF_2023).unwrap();
    for (model, input, output) in [
        ("gpt-4", 30_000_000_000, 60_000_000_000),
        ("gpt-4-0314", 30_000_000_000, 60_000_000_000),
        ("gpt-4-32k", 60_000_000_000, 120_000_000_000),
        ("gpt-3.5-turbo", 2_000_000_000, 2_000_000_000),
        ("gpt-3.5-turbo-0301", 2_000_000_000, 2_000_000_000),
        ("davinci", 20_000_000_000, 20_000_000_000),
        ("text-davinci-003", 20_000_000_000, 20_000_000_000),
        ("text-curie-001", 2_000_000_000, 2_000_000_000),
        ("babbage", 500_000_000, 500_000_000),
        ("text-ada-001", 400_000_000, 400_000_000),
    ] {
        assert_eq!(pricer.price(&call("openai", model, 1_000, 0)), (Cost::Usd(input), PricedBy::Own), "{model}");
        assert_eq!(pricer.price(&call("openai", model, 0, 1_000)), (Cost::Usd(output), PricedBy::Own), "{model}");
    }
    let built_in = call("openai", "gpt-4o", 1_000, 100);
    assert_eq!(pricer.price(&built_in), (Cost::Usd(3_500_000_000), PricedBy::BuiltIn));
    assert!(pricer.source(PricedBy::Own).starts_with("article of 2023 "));
    assert_eq!(pricer.source(PricedBy::BuiltIn), SOURCE);
    assert_ne!(pricer.version(), PRICES_VERSION);
    assert_eq!(pricer.own_prices().len(), 7);
}

/// Scenario: own prices that change by the day, differ by provider, are told in another currency, and have rates for
/// everything. Guarantee: each call is priced by its day and provider, by hand-checked sums.
#[test]
fn own_prices_follow_day_provider_and_currency() {
    let own = r#"
        [[currencies.EUR]]
        usd = 1.10
        [[currencies.EUR]]
        valid_from = "2026-07-01"
        usd = "1.20"
        [[price]]
        model = "house-*"
        input = 1
        output = 4
        cache_read = 0.1
        cache_write = 1.25
        reasoning = 8
        request = 0.001
        [[price]]
        model = "house-*"
        valid_from = "2026-11-20"
        input = 2
        [[price]]
        model = "house-*"
        provider = "ollama"
        input = 0
        output = 0
        [[price]]
        model = "euro"
        currency = "EUR"
        input = 10
        output = 10
    "#;
    let pricer = Pricer::with_own("own.toml", own).unwrap();
    let before = Call {
        time_unix_nano: DAY_NS - 1,
        cache_read_tokens: Some(300_000),
        cache_write_tokens: Some(200_000),
        reasoning_tokens: Some(40_000),
        ..call("acme", "house-7b", 1_000_000, 100_000)
    };
    // 0.5 + 0.03 + 0.25 for the input, 0.24 + 0.32 for the output, 0.001 for the request.
    assert_eq!(pricer.price(&before), (Cost::Usd(1_341_000_000_000), PricedBy::Own));
    let free_output = Call { output_tokens: None, time_unix_nano: DAY_NS, ..before };
    assert_eq!(pricer.cost(&free_output), Cost::Usd(2_000_000_000_000));
    assert_eq!(pricer.cost(&Call { provider: Some("ollama"), ..before }), Cost::Usd(0));
    let euro = call("acme", "euro", 1_000_000, 0);
    assert_eq!(pricer.cost(&euro), Cost::Usd(12_000_000_000_000));
    let in_spring = Call { time_unix_nano: DAY_NS - 200 * 24 * 60 * MINUTE_NS, ..euro };
    assert_eq!(pricer.cost(&in_spring), Cost::Usd(11_000_000_000_000));
    assert_eq!(pricer.price(&call("acme", "elsewhere", 1, 1)), (Cost::Unknown, PricedBy::BuiltIn));
    let shown = pricer.rates(Some("acme"), "house-7b", DAY_NS - 1).unwrap();
    assert_eq!((shown.input, shown.reasoning, shown.request), (1_000_000_000_000, 8_000_000_000_000, 1_000_000_000));
}

/// Scenario: thinking that has a rate of its own. Guarantee: it is billed at that rate, elsewhere as the output it is.
#[test]
fn thinking_is_billed_as_the_catalogue_says() {
    let pricer = Pricer::new();
    let o3 = call("openai", "o3", 1_000, 1_000);
    assert_eq!(pricer.cost(&Call { reasoning_tokens: Some(900), ..o3 }), pricer.cost(&o3));
    let json = r#"[{"id": "acme", "name": "Acme", "api_pattern": "acme", "models": [
        {"id": "deep", "match": {"equals": "deep"}, "prices":
            {"input_mtok": 1, "output_mtok": 2, "output_reasoning_mtok": 5}}]}]"#;
    let pricer = Pricer::with_catalogue(Box::leak(Box::new(Calculator::from_json(json).expect("a good catalogue"))));
    let deep = Call { reasoning_tokens: Some(600), ..call("acme", "deep", 1_000, 1_000) };
    assert_eq!(pricer.cost(&deep), Cost::Usd(1_000_000_000 + 800_000_000 + 3_000_000_000));
}

/// Scenario: the catalogue that the README shows. Guarantee: it is read, and prices what it says.
#[test]
fn the_catalogue_of_the_readme_is_good() {
    let readme = include_str!("../../../../README.md");
    let after = readme.split("## Prices of your own").nth(1).expect("has the section");
    let text = after.split("```toml\n").nth(1).and_then(|text| text.split("```").next()).expect("has the example");
    let pricer = Pricer::with_own("README.md", text).unwrap();
    let azure = call("azure.ai.openai", "gpt-4o-2024-08-06", 1_000_000, 1_000_000);
    assert_eq!(pricer.price(&azure), (Cost::Usd(10_500_000_000_000), PricedBy::Own));
    assert_eq!(pricer.cost(&call("acme", "house-7b", 1_000_000, 0)), Cost::Usd(21_800_000_000));
}
