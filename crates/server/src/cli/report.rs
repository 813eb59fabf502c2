//! What a server reports, and how it is printed.

use anyhow::Context;
use serde::de::DeserializeOwned;

use crate::config::format_bytes;

/// The report in an answer, or what the server says is wrong.
pub(super) async fn report_of<T: DeserializeOwned>(url: &str, answer: reqwest::Response) -> anyhow::Result<T> {
    let status = answer.status();
    let body = answer.bytes().await.context("the answer broke off")?;
    if !status.is_success() {
        let error: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
        let message = error.as_ref().and_then(|error| error["error"]["message"].as_str());
        anyhow::bail!("{}", message.map_or_else(|| format!("{url} answered {status}"), str::to_owned));
    }
    serde_json::from_slice(&body).with_context(|| format!("{url} answered with no report"))
}

/// Rows as lines whose cells stand below each other.
pub(super) fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let widths: [usize; COLUMNS] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Bytes in the largest whole unit of which there are ten at least.
pub(super) fn rounded(bytes: u64) -> String {
    let shift = [30, 20, 10].into_iter().find(|shift| bytes >> shift >= 10).unwrap_or(0);
    format_bytes(bytes >> shift << shift)
}
