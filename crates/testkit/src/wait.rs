//! Waiting for something that has no event of its own to wait for, such as an answer of another process.

use std::time::Duration;

/// Longest wait of a test: generous, because it is only ever used up by a failure.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Asks until there is an answer.
///
/// # Panics
/// After [`DEADLINE`], naming what was waited for.
pub async fn wait_until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let mut turns = tokio::time::interval(Duration::from_millis(25));
    let asking = async {
        loop {
            turns.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    match tokio::time::timeout(DEADLINE, asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("waited {} s in vain: {what}", DEADLINE.as_secs()),
    }
}
