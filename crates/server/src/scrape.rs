//! `/metrics`: the server's own figures and the totals of LLM calls, in the format that a scraper asks for.
//!
//! What is shown is put together once ([`page`]) and written by one of two writers, so that every format tells the same.

mod accept;
mod bounds;
mod calls;
mod distribution;
mod figures;
mod page;
mod protobuf;
mod text;

pub(crate) use accept::Format;
pub(crate) use calls::CallTotals;
pub(crate) use figures::Figures;

use page::Family;

/// The whole page in a format.
pub(crate) fn render(format: Format, figures: &Figures, calls: Option<&CallTotals>) -> Vec<u8> {
    let mut families = figures.families();
    families.extend(calls.into_iter().flat_map(CallTotals::families));
    write(format, &families)
}

fn write(format: Format, families: &[Family]) -> Vec<u8> {
    match format {
        Format::Text => text::write(families, text::Flavour::Prometheus).into_bytes(),
        Format::OpenMetrics => text::write(families, text::Flavour::OpenMetrics).into_bytes(),
        Format::Protobuf => protobuf::write(families),
    }
}

#[cfg(test)]
mod tests;
