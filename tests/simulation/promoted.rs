//! Columns that attributes are promoted to, by processes that disagree on which.

use arrow::array::RecordBatchReader;
use arrow::compute::concat_batches;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use spanlake_schema::spans;
use spanlake_storage::promotion::columns_of;
use spanlake_storage::{PromotionList, TableView};

use crate::world::World;

/// What a process wants in columns.
pub(crate) fn list(process: usize) -> PromotionList {
    let patterns = ["reg:.*[.]id", "reg:.*[.](id|host|temperature|code)"];
    PromotionList::parse(&spans::SPEC, &[patterns[process % patterns.len()].to_owned()]).expect("a list")
}

impl World {
    /// Each file has the columns that it says it has, and in them what its rows' attributes say.
    pub(crate) async fn check_promoted(&self, view: &TableView) {
        let promoted = &view.snapshot.promoted;
        assert!(view.snapshot.segments.is_empty() || !promoted.is_empty(), "attributes were sent");
        for segment in &view.snapshot.segments {
            let held: Vec<_> = promoted.iter().filter(|column| segment.holds(&column.name)).cloned().collect();
            let path = view.table.object_path(&segment.path).expect("a path");
            let builder = ParquetRecordBatchReaderBuilder::try_new(self.bytes(&path).await).expect("a Parquet file");
            let maps = spans::SPEC.attributes.iter().flat_map(|(map, types)| [*map, *types]);
            let read = maps.chain(held.iter().map(|column| column.name.as_str()));
            let mask = ProjectionMask::columns(builder.parquet_schema(), read);
            let reader = builder.with_projection(mask).build().expect("a reader");
            let schema = reader.schema();
            let batches: Vec<_> = reader.map(|batch| batch.expect("rows")).collect();
            let rows = concat_batches(&schema, &batches).expect("one batch");
            let expected = columns_of(&spans::SPEC, &held, &rows).expect("columns");
            for (column, expected) in held.iter().zip(expected) {
                let found = rows.column_by_name(&column.name).expect("a column that the file says it has");
                assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{} in {path}", column.name);
            }
        }
    }
}
