//! `spanlake prices`: what models cost, by the built-in catalogue and one of the user's own.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Arg, ArgMatches, Command, value_parser};
use spanlake_ingest::price::{PricedBy, Pricer};
use spanlake_schema::{Ambient, System};

use crate::config::ConfigError;
use crate::reading;

const PICO: u64 = 1_000_000_000_000;

pub(super) fn command() -> Command {
    let prices = Arg::new("prices")
        .long("prices")
        .value_name("FILE")
        .env("SPANLAKE_PRICES")
        .value_parser(value_parser!(PathBuf))
        .help("a price catalogue of your own, before the built-in one");
    let model = Arg::new("model").value_name("MODEL").help("a model's name; none for the prices of your own catalogue");
    let provider = Arg::new("provider").long("provider").value_name("NAME").help("the provider, as in spans.provider");
    let date =
        Arg::new("date").long("date").value_name("DATE").help("the day, such as 2026-01-31; today where none is told");
    let file =
        Arg::new("file").value_name("FILE").required(true).value_parser(value_parser!(PathBuf)).help("the catalogue");
    Command::new("prices")
        .about("Show and check prices")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("show").about("Show what a model costs on a day").args([model, provider, date, prices]),
        )
        .subcommand(Command::new("check").about("Check a price catalogue of your own").arg(file))
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match matches.subcommand() {
        Some(("check", matches)) => {
            let path = matches.get_one::<PathBuf>("file").expect("invariant: required");
            let pricer = pricer(Some(path.as_path()))?;
            let own = pricer.own_prices();
            writeln!(out, "{}: {} prices, in order ({})", path.display(), own.len(), pricer.source(PricedBy::Own))?;
            Ok(())
        }
        Some(("show", matches)) => show(matches, &mut out),
        _ => anyhow::bail!("say what to do: show or check"),
    }
}

fn pricer(path: Option<&Path>) -> Result<Pricer, ConfigError> {
    let Some(path) = path else { return Ok(Pricer::new()) };
    let (name, text) = reading::read("prices", path)?;
    Pricer::with_own(&name, &text).map_err(|problem| ConfigError { problems: vec![problem] })
}

fn show(matches: &ArgMatches, out: &mut impl Write) -> anyhow::Result<()> {
    let pricer = pricer(matches.get_one::<PathBuf>("prices").map(PathBuf::as_path))?;
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let Some(model) = text("model") else {
        for [model, provider, valid_from] in pricer.own_prices() {
            let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
            writeln!(out, "{model}  {}  {}", or(provider, "any provider"), or(valid_from, "always"))?;
        }
        return Ok(());
    };
    let time_unix_nano = match text("date") {
        None => System.now_unix_nano(),
        Some(date) => day(date)?,
    };
    let rates = pricer.rates(text("provider"), model, time_unix_nano).with_context(|| {
        let provider = text("provider").map(|name| format!(" of {name}")).unwrap_or_default();
        format!("no price by tokens is known for the model {model}{provider}")
    })?;
    writeln!(out, "{model}: US dollars a million tokens ({})", pricer.source(rates.priced_by))?;
    let rows = [
        ("input", rates.input),
        ("input from the cache", rates.cache_read),
        ("input to the cache", rates.cache_write),
        ("output", rates.output),
        ("output that is thinking", rates.reasoning),
        ("each request, in dollars", rates.request),
    ];
    for (name, units) in rows.into_iter().filter(|(name, units)| *units > 0 || !name.starts_with("each")) {
        writeln!(out, "  {name:<25} {}", decimal(units))?;
    }
    Ok(())
}

/// Units of 1e-12 as a decimal number, without zeros at its end.
fn decimal(units: u64) -> String {
    let text = format!("{}.{:012}", units / PICO, units % PICO);
    let digits = text.trim_end_matches('0');
    if digits.ends_with('.') { format!("{digits}00") } else { digits.to_owned() }
}

/// Noon of a day, UTC.
fn day(text: &str) -> anyhow::Result<u64> {
    let day =
        text.parse::<chrono::NaiveDate>().with_context(|| format!("`{text}` is no day: write it as 2026-01-31"))?;
    let noon = day.and_hms_opt(12, 0, 0).and_then(|noon| noon.and_utc().timestamp_nanos_opt());
    let noon = noon.and_then(|nanos| u64::try_from(nanos).ok());
    noon.with_context(|| format!("{text} lies too far away"))
}

#[cfg(test)]
mod tests {
    use super::{command, decimal, show};

    #[test]
    fn amounts_are_written_as_people_write_them() {
        for (units, text) in [(0, "0.00"), (150_000_000_000, "0.15"), (2_500_000_000_000, "2.5"), (1, "0.000000000001")]
        {
            assert_eq!(decimal(units), text);
        }
    }

    #[test]
    fn a_model_is_shown_with_the_price_of_the_day() {
        let shown = |arguments: &[&str]| {
            let matches =
                command().try_get_matches_from([["prices", "show"].as_slice(), arguments].concat()).expect("is right");
            let mut out = Vec::new();
            let done = show(matches.subcommand().expect("has one").1, &mut out);
            done.map(|()| String::from_utf8(out).expect("is text")).map_err(|error| format!("{error:#}"))
        };
        let input = |text: &str| {
            let line = text.lines().find(|line| line.starts_with("  input  ")).expect("has the input's rate");
            line.split_whitespace().last().map(str::to_owned)
        };
        for (date, rate) in [("2025-06-01", "10.00"), ("2025-07-01", "2.00")] {
            let text = shown(&["o3", "--provider", "openai", "--date", date]).expect("is known");
            assert_eq!(input(&text).as_deref(), Some(rate), "{text}");
            assert!(text.contains("genai-prices"), "{text}");
        }
        assert!(shown(&["no-such-model"]).expect_err("is unknown").contains("no-such-model"));
        assert!(shown(&["o3", "--date", "soon"]).expect_err("is no day").contains("`soon`"));
    }
}
