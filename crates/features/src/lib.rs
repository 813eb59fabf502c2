//! Development only. Cargo gives a dependency other features when one package is built than when all are, and then builds
//! it again, from Arrow upward. Naming this package too keeps them equal:
//!
//! ```sh
//! cargo test -p spanlake-storage -p spanlake-features
//! ```
