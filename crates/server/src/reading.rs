//! The user's own rules, prices and policy, read once and refused as any other part of the configuration.

use std::path::{Path, PathBuf};

use spanlake_ingest::Decoder;
use spanlake_ingest::policy::Policy;

use crate::config::{ConfigError, IngestConfig};

/// The decoder that the configured files make, or the one without any.
pub(crate) fn decoder(config: &IngestConfig) -> Result<Decoder, ConfigError> {
    let (dialects, prices) = (text_of("dialects", &config.dialects)?, text_of("prices", &config.prices)?);
    Decoder::with_files(
        dialects.as_ref().map(|(path, text)| (path.as_str(), text.as_str())),
        prices.as_ref().map(|(path, text)| (path.as_str(), text.as_str())),
    )
    .map_err(|problem| ConfigError { problems: vec![problem] })
}

/// The attribute policy of a file, or the one without rules.
pub(crate) fn policy(path: Option<&Path>) -> Result<Policy, ConfigError> {
    let Some(path) = path else { return Ok(Policy::default()) };
    let (name, text) = read("policy", path)?;
    Policy::parse(&name, &text).map_err(|problem| ConfigError { problems: vec![problem] })
}

/// A file's path and text.
fn text_of(key: &str, path: &Option<PathBuf>) -> Result<Option<(String, String)>, ConfigError> {
    path.as_deref().map(|path| read(key, path)).transpose()
}

/// Reads a file that a key or flag names.
pub(crate) fn read(key: &str, path: &Path) -> Result<(String, String), ConfigError> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(ConfigError { problems: vec![format!("{key}: {name}: {error}")] }),
    }
}
