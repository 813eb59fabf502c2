//! Stored calls, priced again.

use std::collections::BTreeMap;

use arrow::record_batch::RecordBatch;
use spanlake_schema::corrections::{Correction, Reason, Value};
use spanlake_storage::Result;

use crate::Ingest;
use crate::meaning::Meaning;
use crate::price::Cost;
use crate::recall::Row;

/// What new prices change, by model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repricing {
    /// The models, NULL too.
    pub models: BTreeMap<Option<String>, RepricedModel>,
}

/// What new prices change for the calls of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepricedModel {
    /// Calls that count.
    pub calls: u64,
    /// Those of them whose cost changes.
    pub changed: u64,
    /// What they cost so far, in units of 10^-12 US dollars.
    pub old_usd_picos: i128,
    /// What they cost by the prices of now, in the same units.
    pub new_usd_picos: i128,
    /// Calls without a cost so far.
    pub old_unpriced: u64,
    /// Calls without a cost by the prices of now.
    pub new_unpriced: u64,
}

/// What rows cost by the prices of now: corrections of those that change, and the sums.
pub(crate) fn reprice(
    rows: &RecordBatch,
    meaning: &Meaning,
    told: &mut Repricing,
    now: (i64, i64),
) -> Result<Vec<Correction>> {
    let (revision, recorded_micros) = now;
    let mut corrections = Vec::new();
    for at in 0..rows.num_rows() {
        let row = Row { batch: rows, at };
        if !row.role()?.has_cost() {
            continue;
        }
        let old = row.stored_cost()?;
        let priced = row.price(meaning)?;
        let new = match priced.0 {
            Cost::Usd(usd) => i64::try_from(usd).ok(),
            Cost::Unknown | Cost::OutOfRange => None,
        };
        let source = new.map(|_| meaning.pricer().source(priced.1));
        let changed = old != new;
        if row.text("usage_role")? == Some("leaf") {
            let model = told.models.entry(row.text("model")?.map(str::to_owned)).or_default();
            model.calls += 1;
            model.changed += u64::from(changed);
            model.old_usd_picos += i128::from(old.unwrap_or(0));
            model.new_usd_picos += i128::from(new.unwrap_or(0));
            model.old_unpriced += u64::from(old.is_none());
            model.new_unpriced += u64::from(new.is_none());
        }
        if changed || row.text("price_source")? != source {
            let Some(address) = row.address()? else { continue };
            let changes = vec![
                ("cost_usd".to_owned(), new.map(Value::Usd)),
                ("price_source".to_owned(), source.map(|source| Value::Text(source.to_owned()))),
            ];
            corrections.push(Correction { address, revision, recorded_micros, reason: Reason::Price, changes });
        }
    }
    Ok(corrections)
}

/// Pricing again what is stored.
impl Ingest {
    /// Prices rows of `spans` again that were read back with the columns [`crate::RECALLED`], and adds to `told` what that
    /// changes. Unless it is a dry run, what changes is recorded as corrections.
    ///
    /// # Errors
    /// [`spanlake_storage::ErrorKind::Invalid`] where columns are missing, and as of the log. What was recorded before stays, and
    /// another run records the rest.
    pub async fn reprice(
        &self,
        tenant: &str,
        rows: &RecordBatch,
        told: &mut Repricing,
        is_dry_run: bool,
    ) -> Result<()> {
        let corrections = reprice(rows, self.settling.meaning(), told, self.settling.next_revision())?;
        if !is_dry_run {
            self.settling.append_all(tenant, &corrections).await?;
        }
        Ok(())
    }
}
