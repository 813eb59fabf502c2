use super::{Class, Known, Rules};

fn readings(rules: &Rules, key: &str) -> Vec<&'static str> {
    let columns = |rule: &super::NameRule| rules.facts[usize::from(rule.fact)].column;
    match rules.find(key.as_bytes()) {
        Some(Known::Name(name)) => name.readings.iter().map(columns).collect(),
        Some(Known::Member(rule, _)) => vec![columns(&rule)],
        None => Vec::new(),
    }
}

/// Scenario: the built-in files are read. Guarantee: every name they list is found, and no other.
#[test]
fn every_listed_name_is_found() {
    let rules = Rules::built_in();
    for (key, name) in rules.names.all() {
        let Some(Known::Name(found)) = rules.find(key) else { panic!("{} is lost", String::from_utf8_lossy(key)) };
        assert_eq!(found.readings.len(), name.readings.len());
        assert!(!name.readings.is_empty() || name.document.is_some());
    }
    assert!(readings(&rules, "gen_ai.usage.input_token").is_empty());
    assert!(readings(&rules, "").is_empty());
    assert_eq!(readings(&rules, "model"), ["request_model", "response_model"]);
}

/// Scenario: names with a number in them. Guarantee: any number is found, nothing else in its place.
#[test]
fn indexed_families_are_found() {
    let rules = Rules::built_in();
    for number in ["0", "7", "12345"] {
        let key = format!("gen_ai.completion.{number}.finish_reason");
        let Some(Known::Member(rule, index)) = rules.find(key.as_bytes()) else { panic!("{key} is not found") };
        assert_eq!(
            (rules.facts[usize::from(rule.fact)].column, index.to_string()),
            ("finish_reasons", number.to_owned())
        );
    }
    for key in
        ["gen_ai.completion..finish_reason", "gen_ai.completion.x.finish_reason", "gen_ai.completion.finish_reason"]
    {
        assert!(rules.find(key.as_bytes()).is_none(), "{key}");
    }
}

/// Scenario: every attribute that a column can stand in for. Guarantee: a rule reads it into that column.
#[test]
fn every_promoted_attribute_is_read_into_its_column() {
    let rules = Rules::built_in();
    for promoted in spanlake_schema::spans::PROMOTED {
        let Some(Known::Name(name)) = rules.find(promoted.attribute.as_bytes()) else {
            panic!("{} is not read", promoted.attribute)
        };
        let into = name.readings.iter().find(|reading| reading.canonical);
        let into = into.unwrap_or_else(|| panic!("{} is not read", promoted.attribute));
        assert_eq!(rules.facts[usize::from(into.fact)].column, promoted.column);
    }
}

/// Scenario: spellings that real producers send. Guarantee: one provider, one name; a library is no provider.
#[test]
fn providers_have_one_name() {
    let providers = Rules::built_in().providers;
    for (told, known) in [
        ("OpenAI", Some("openai")),
        ("openai.chat", Some("openai")),
        ("anthropic.messages", Some("anthropic")),
        ("google.generative-ai", Some("gcp.gemini")),
        ("google.vertex.chat", Some("gcp.vertex_ai")),
        ("Anthropic", Some("anthropic")),
        ("AWS", Some("aws.bedrock")),
        ("amazon-bedrock", Some("aws.bedrock")),
        ("az.ai.openai", Some("azure.ai.openai")),
        ("azure-openai.responses", Some("azure.ai.openai")),
        ("my-own", Some("my-own")),
        ("strands-agents", None),
        ("langchain", None),
        ("", None),
    ] {
        assert_eq!(providers.of_told(told).as_deref(), known, "{told}");
    }
    for (host, known) in [
        ("eu.api.openai.com", Some("openai")),
        ("https://acme.openai.azure.com/openai/deployments/x", Some("azure.ai.openai")),
        ("bedrock-runtime.eu-central-1.amazonaws.com:443", Some("aws.bedrock")),
        ("notapi.openai.com.evil", None),
        ("localhost", None),
    ] {
        assert_eq!(providers.of_host(host), known, "{host}");
    }
    for (model, known) in [
        ("text-davinci-003", Some("openai")),
        ("anthropic/claude-sonnet-4", Some("anthropic")),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", Some("aws.bedrock")),
        ("models/gemini-2.5-flash", Some("gcp.gemini")),
        ("toyota", None),
    ] {
        assert_eq!(providers.of_model(model), known, "{model}");
    }
}

/// Scenario: words of many producers. Guarantee: one operation, and whether it is a call.
#[test]
fn words_mean_one_operation() {
    let rules = Rules::built_in();
    for (told, name, class) in [
        ("chat", "chat", Class::Call),
        ("LLM", "chat", Class::Call),
        ("\"CHAT_MODEL\"", "chat", Class::Call),
        ("completion", "text_completion", Class::Call),
        ("EMBEDDING", "embeddings", Class::Call),
        ("generate_content", "generate_content", Class::Call),
        ("ai.streamText.doStream", "chat", Class::Call),
        ("ai.generateText", "invoke_agent", Class::Part),
        ("CHAIN", "chain", Class::Part),
        ("tool", "execute_tool", Class::Part),
        ("RETRIEVER", "retrieval", Class::Part),
        ("workflow", "invoke_workflow", Class::Part),
        ("task", "task", Class::Part),
        ("unknown", "", Class::Unknown),
    ] {
        let known = rules.operation(told).unwrap_or_else(|| panic!("{told} is unknown"));
        assert_eq!((known.name.as_str(), known.class), (name, class), "{told}");
    }
    for (span, name) in [
        ("chat gpt-4o", Some("chat")),
        ("openai.chat", Some("chat")),
        ("agent run", Some("invoke_agent")),
        ("running tool", Some("execute_tool")),
        ("running 2 tools", Some("execute_tool")),
        ("CreateEmbeddings", Some("embeddings")),
        ("Completion", Some("text_completion")),
        ("ChatCompletion", Some("chat")),
        ("raw_gen_ai_request", Some("")),
        ("POST /chat", None),
        ("do_work", None),
    ] {
        assert_eq!(rules.operation_of_span(span).map(|known| known.name.as_str()), name, "{span}");
    }
}

/// Scenario: a file of the user's own. Guarantee: its names come first, what it ignores is not read, its spellings and
/// facts win, and the version tells it from the built-in rules.
#[test]
fn a_users_file_adds_and_overrides() {
    let own = r#"
        ignore = ["llm.usage.total_tokens"]
        frameworks = ["gateway"]
        [[column]]
        name = "input_tokens"
        read = [{ dialect = "acme", name = "acme.tokens.in" }, { dialect = "acme", name = "acme.calls.N.tokens_in" }]
        [[operation]]
        name = "chat"
        is = "call"
        spellings = ["converse_with_acme"]
        [providers]
        acme = ["acme-llm"]
        [hosts]
        "llm.acme.example" = "acme"
    "#;
    let rules = Rules::with_file(Some(("dialects.toml", own))).unwrap();
    assert_eq!(readings(&rules, "acme.tokens.in"), ["input_tokens"]);
    assert_eq!(readings(&rules, "acme.calls.3.tokens_in"), ["input_tokens"]);
    assert!(readings(&rules, "llm.usage.total_tokens").is_empty());
    assert_eq!(readings(&rules, "gen_ai.usage.input_tokens"), ["input_tokens"]);
    let rank = |key: &str| match rules.find(key.as_bytes()) {
        Some(Known::Name(name)) => name.readings[0].rank,
        _ => panic!("{key} is not found"),
    };
    assert!(rank("acme.tokens.in") < rank("gen_ai.usage.input_tokens"));
    assert_eq!(rules.operation("Converse_With_Acme").map(|known| known.class), Some(Class::Call));
    assert_eq!(rules.providers.of_told("ACME-LLM").as_deref(), Some("acme"));
    assert_eq!(rules.providers.of_told("gateway"), None);
    assert_eq!(rules.providers.of_host("eu.llm.acme.example"), Some("acme"));
    assert_ne!(rules.version, Rules::built_in().version);
    assert_eq!(rules.version & 0xff, Rules::built_in().version);
}

/// Scenario: files with a mistake. Guarantee: refused, with the file, the line and what is wrong.
#[test]
fn mistakes_are_named_with_their_line() {
    for (text, line, what) in [
        ("\n[[column]]\nname = \"cost\"\nread = []\n", 3, "spans has no column `cost`"),
        ("[[column]]\nname = \"trace_state\"\nread = []\n", 2, "needs `as`"),
        ("[[column]]\nname = \"events\"\nas = \"text\"\nread = []\n", 2, "no fact can be read into `events`"),
        ("[[column]]\nname = \"model\"\nas = \"txt\"\nread = []\n", 3, "txt"),
        ("[[column]]\nname = \"seed\"\nread = [{ dialect = \"x\", name = \"a.N.b\" }]\n", 3, "one part may be N"),
        ("\n\nprovider = 1\n", 3, "provider"),
        ("[[span_name]]\nstarts = \"x\"\noperation = \"juggle\"\n", 3, "no operation `juggle`"),
        ("[[event]]\ndialect = \"x\"\nname = \"e\"\nfirst = \"sooner\"\n", 3, "`sooner`"),
        ("[[document]]\ndialect = \"x\"\nname = \"d\"\nshapes = [{ shape = \"round\" }]\n", 3, "no shape `round`"),
        ("[[emitter]]\nscope = \"x\"\nuntil = \"later\"\n", 2, "`later` is no version"),
    ] {
        let error = Rules::with_file(Some(("my.toml", text))).map(|_| ()).expect_err(text);
        assert!(error.starts_with(&format!("my.toml:{line}: ")) && error.contains(what), "{text}: {error}");
    }
}

/// Scenario: the rules that the README shows. Guarantee: they are read.
#[test]
fn the_rules_of_the_readme_are_good() {
    let readme = include_str!("../../rules/README.md");
    let text = readme.split("```toml\n").nth(1).and_then(|text| text.split("```").next()).expect("has the example");
    let rules = Rules::with_file(Some(("README.md", text))).unwrap();
    assert_eq!(readings(&rules, "acme.step.12.tokens_in"), ["input_tokens"]);
    assert!(rules.emitters[0].is_about("acme.gateway", "1.9") && !rules.emitters[0].is_about("acme.gateway", "2.0"));
}
