//! Attributes that a user wants to have in columns of their own.
//!
//! Such a column is a typed copy: its attribute stays in the map where it was, so that a row does not depend on what is promoted.
//! (The columns of [`crate::spans::PROMOTED`] are others: they are part of every table, and stand in for their attribute.) The
//! type is that of the first value that was committed. Where a row has a value of another type, the column is NULL.

use crate::column::{ColumnType, TableSpec};
use crate::spans;

/// Columns of a table that are promoted at most: each row pays for each of them.
pub const COLUMNS_MAX: usize = 100;

/// Bytes of an attribute's name at most: names stand in the table's metadata, which every reader loads.
pub const NAME_BYTES_MAX: usize = 200;

/// A column that holds an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromotedColumn {
    /// Its name.
    pub name: String,
    /// The attribute, letter by letter.
    pub attribute: String,
    /// One of [`ColumnType::Text`], [`ColumnType::Int64`], [`ColumnType::Float64`] and [`ColumnType::Bool`].
    pub column_type: ColumnType,
}

/// The column of an attribute: its name, in which everything but letters, digits and underscores of ASCII is an underscore.
pub fn column_name(attribute: &str) -> String {
    attribute.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect()
}

/// Whether two columns would be one to readers that do not tell capitals from small letters, as Spark does not.
pub fn is_same_column(left: &str, right: &str) -> bool {
    left.eq_ignore_ascii_case(right)
}

/// The column of a table's own that stands in the way of promoting an attribute: it holds the attribute already, or has the
/// name that the column would have.
pub fn standing_column(spec: &TableSpec, attribute: &str) -> Option<&'static str> {
    if spec.name == spans::SPEC.name
        && let Some(held) = spans::PROMOTED.iter().find(|promoted| promoted.attribute == attribute)
    {
        return Some(held.column);
    }
    let name = column_name(attribute);
    spec.columns.iter().map(|column| column.name).find(|own| is_same_column(own, &name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_named_after_its_attribute() {
        for (attribute, name) in [
            ("customer.tier", "customer_tier"),
            ("Customer.Tier-2", "Customer_Tier_2"),
            ("größe", "gr__e"),
            ("already_plain", "already_plain"),
        ] {
            assert_eq!(column_name(attribute), name);
        }
    }

    #[test]
    fn own_columns_stand_in_the_way() {
        let standing = |attribute| standing_column(&spans::SPEC, attribute);
        assert_eq!(standing("gen_ai.request.model"), Some("request_model"));
        assert_eq!(standing("user.id"), Some("user_id"));
        assert_eq!(standing("Service.Name"), Some("service_name"));
        assert_eq!(standing("customer.tier"), None);
        assert_eq!(standing_column(&crate::logs::SPEC, "gen_ai.request.model"), None);
    }
}
