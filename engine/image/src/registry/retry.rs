//! When a request is made again, and how long to wait before.
//!
//! A registry that says how long (`Retry-After`, in seconds or as a date) is believed up to [`LONGEST_WAIT`]. Else the
//! wait doubles with every attempt and is spread at random, so that many builds that were refused at once do not come
//! back at once. All requests to one registry share a budget, so a registry that is down fails a build in bounded time
//! however many blobs it has.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// Tries of a request that may be repeated.
pub(crate) const ATTEMPTS: u32 = 5;
/// Requests to one registry that are made again, all in all.
const BUDGET: u32 = 64;
/// The longest wait that a registry may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The waits of one registry.
#[derive(Debug)]
pub(crate) struct Retry {
    first_wait: Duration,
    left: AtomicU32,
}

impl Retry {
    pub(crate) fn new(first_wait: Duration) -> Self {
        Self { first_wait, left: AtomicU32::new(BUDGET) }
    }

    /// How long to wait before the attempt after this one; none when there shall be no other.
    pub(crate) fn wait(&self, attempt: u32, headers: Option<&HeaderMap>) -> Option<Duration> {
        if attempt >= ATTEMPTS {
            return None;
        }
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        let asked = headers.and_then(retry_after);
        Some(asked.unwrap_or_else(|| self.spread(attempt)).min(LONGEST_WAIT))
    }

    /// Between half and all of the doubled wait.
    fn spread(&self, attempt: u32) -> Duration {
        let most = self.first_wait.saturating_mul(1 << attempt.min(10));
        let random = RandomState::new().hash_one(attempt) % 1024;
        most / 2 + most.saturating_mul(random as u32) / 2048
    }
}

/// Whether a status says that the same request may be answered later.
pub(crate) fn is_busy(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date, which is compared with the answer's own date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (then, now) = (http_date(text)?, http_date(headers.get(DATE)?.to_str().ok()?)?);
    Some(Duration::from_secs(then.saturating_sub(now)))
}

/// Seconds since 1970 of an IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut parts = text.trim().split_once(", ")?.1.split(' ');
    let day: u64 = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u64 + 1;
    let year: u64 = parts.next()?.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    let mut time = parts.next()?.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    // Days from the civil calendar, years starting in March.
    let (shifted, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + (month * 153 + 2) / 5 + day;
    Some(days.checked_sub(719_469)? * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn a_registry_says_how_long_to_wait() {
        let check = |after: &str, date: &str, expected: Option<u64>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(after).unwrap());
            headers.insert(DATE, HeaderValue::from_str(date).unwrap());
            assert_eq!(retry_after(&headers), expected.map(Duration::from_secs), "{after}");
        };
        let now = "Sun, 06 Nov 1994 08:49:37 GMT";
        check("7", now, Some(7));
        check("Sun, 06 Nov 1994 08:50:07 GMT", now, Some(30));
        check("Sun, 06 Nov 1994 08:00:00 GMT", now, Some(0));
        check("soon", now, None);
        check("Sun, 06 Nov 1994 08:50:07 GMT", "today", None);
        assert_eq!(http_date(now), Some(784_111_777));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Sat, 29 Feb 2020 23:59:59 GMT"), Some(1_583_020_799));
    }

    #[test]
    fn the_budget_ends() {
        let retry = Retry::new(Duration::from_millis(8));
        let first = retry.wait(1, None).unwrap();
        assert!((Duration::from_millis(8)..=Duration::from_millis(16)).contains(&first), "{first:?}");
        assert_eq!(retry.wait(ATTEMPTS, None), None);
        assert_eq!((2..=BUDGET).filter(|_| retry.wait(1, None).is_some()).count(), BUDGET as usize - 1);
        assert_eq!(retry.wait(1, None), None);
    }
}
