//! What a rollup reads: its source at one version, and the corrections of the source's rows at one version.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Date32Type, TimestampMicrosecondType};
use async_trait::async_trait;
use futures::TryStreamExt;
use spanlake_schema::TableSpec;
use spanlake_storage::{AppTransaction, Segment, Snapshot, Table, TableSource, TableView};

use super::run::BOUNDS;
use super::windows::day_of;
use crate::{Parameters, QueryEngine, QueryError};

const TIMES_SQL: &str = "SELECT DISTINCT date, start_time, received_time FROM span_corrections";

/// The versions that a run takes in.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) source: Arc<Snapshot>,
    pub(super) corrections: Option<(Arc<Table>, Arc<Snapshot>)>,
    /// Of the SELECT.
    pub(super) fingerprint: i64,
}

/// The versions that a rollup's table has taken in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    pub(crate) source: Option<i64>,
    pub(crate) corrections: Option<i64>,
    /// The fingerprint of the SELECT that did.
    pub(super) definition: Option<i64>,
}

/// Under which a rollup's table knows the version of the corrections.
fn corrections_id(app_id: &str) -> String {
    format!("{app_id}-corrections")
}

/// Under which a rollup's table knows the SELECT that filled it.
fn definition_id(app_id: &str) -> String {
    format!("{app_id}-definition")
}

impl Reached {
    /// What a snapshot of the rollup's table says.
    pub(crate) fn by(target: &Snapshot, app_id: &str) -> Self {
        let version = |id: &str| target.transactions.get(id).copied();
        Self {
            source: version(app_id),
            corrections: version(&corrections_id(app_id)),
            definition: version(&definition_id(app_id)),
        }
    }

    pub(super) fn is_all_of(&self, inputs: &Inputs) -> bool {
        let corrections = inputs.corrections.as_ref().map(|(_, snapshot)| snapshot.version);
        self.definition == Some(inputs.fingerprint)
            && self.source == Some(inputs.source.version)
            && self.corrections == corrections
    }

    /// Without what another SELECT took in.
    pub(super) fn by_definition(self, fingerprint: i64) -> Self {
        match self.definition {
            Some(definition) if definition == fingerprint => self,
            definition => Self { source: None, corrections: None, definition },
        }
    }

    /// Whether more was taken in of the source than there is.
    pub(super) fn is_beyond(&self, inputs: &Inputs) -> bool {
        self.source.is_some_and(|version| version > inputs.source.version)
    }
}

impl Inputs {
    /// The newest versions. Corrections are read last: those of a row may come before it, not the other way round.
    pub(super) async fn refresh(
        source: &Arc<Table>,
        corrections: Option<&Arc<Table>>,
        fingerprint: i64,
    ) -> Result<Self, QueryError> {
        let source = source.refresh().await?;
        let corrections = match corrections {
            Some(table) => Some((Arc::clone(table), table.refresh().await?)),
            None => None,
        };
        Ok(Self { source, corrections, fingerprint })
    }

    /// The tables that a statement sees, the source being as in a snapshot.
    pub(super) fn views_at(&self, source: &Arc<Table>, snapshot: Arc<Snapshot>) -> Vec<TableView> {
        let corrections = self.corrections.iter().map(|(table, snapshot)| committed(table, Arc::clone(snapshot)));
        std::iter::once(committed(source, snapshot)).chain(corrections).collect()
    }

    /// The versions, as they are committed with the rollup's rows: first one that the table has not reached; none where only the
    /// SELECT is another.
    pub(super) fn transactions(
        &self,
        app_id: &str,
        target: &Snapshot,
    ) -> (Option<AppTransaction>, Vec<AppTransaction>) {
        let corrected = self
            .corrections
            .as_ref()
            .map(|(_, snapshot)| AppTransaction { app_id: corrections_id(app_id), version: snapshot.version });
        let source = AppTransaction { app_id: app_id.to_owned(), version: self.source.version };
        let mut all: Vec<AppTransaction> = std::iter::once(source).chain(corrected).collect();
        let is_reached = |one: &AppTransaction| target.transactions.get(&one.app_id) == Some(&one.version);
        all.sort_by_key(is_reached);
        let first = if is_reached(&all[0]) { None } else { Some(all.remove(0)) };
        all.push(AppTransaction { app_id: definition_id(app_id), version: self.fingerprint });
        (first, all)
    }

    /// The times of the spans that some segments of corrections are about.
    pub(super) async fn corrected_times(
        &self,
        engine: &QueryEngine,
        tenant: &str,
        segments: Vec<Arc<Segment>>,
    ) -> Result<Vec<i64>, QueryError> {
        let Some((table, snapshot)) = self.corrections.as_ref().filter(|_| !segments.is_empty()) else {
            return Ok(Vec::new());
        };
        let snapshot = Snapshot { segments, ..snapshot.as_ref().clone() };
        corrected_times(engine, tenant, committed(table, Arc::new(snapshot))).await
    }
}

/// The times of the spans that are corrected: their start, or their arrival where that cannot be believed, which `date`
/// tells.
pub(crate) async fn corrected_times(
    engine: &QueryEngine,
    tenant: &str,
    corrections: TableView,
) -> Result<Vec<i64>, QueryError> {
    let source = Arc::new(Pinned(vec![corrections]));
    let stream = engine.sql_over(source, tenant, TIMES_SQL, Parameters::None, BOUNDS).await?;
    let batches: Vec<_> = stream.try_collect().await?;
    let mut times = Vec::new();
    for batch in &batches {
        let days = batch.column(0).as_primitive::<Date32Type>().values();
        let starts = batch.column(1).as_primitive::<TimestampMicrosecondType>().values();
        let arrivals = batch.column(2).as_primitive::<TimestampMicrosecondType>().values();
        for ((day, start), arrival) in days.iter().zip(starts).zip(arrivals) {
            times.push(if day_of(*start) == *day { *start } else { *arrival });
        }
    }
    Ok(times)
}

/// The committed rows of a table at a snapshot.
pub(super) fn committed(table: &Arc<Table>, snapshot: Arc<Snapshot>) -> TableView {
    TableView { table: Arc::clone(table), snapshot, hot: Vec::new(), spilled: Vec::new() }
}

/// Tables at one snapshot each: what a statement of a rollup may see.
#[derive(Debug)]
pub(super) struct Pinned(pub(super) Vec<TableView>);

#[async_trait]
impl TableSource for Pinned {
    fn tables(&self, _tenant: &str) -> Vec<&'static TableSpec> {
        self.0.iter().map(|view| view.table.spec()).collect()
    }

    async fn view(&self, _tenant: &str, table: &str) -> spanlake_storage::Result<Option<TableView>> {
        Ok(self.0.iter().find(|view| view.table.spec().name == table).cloned())
    }
}
