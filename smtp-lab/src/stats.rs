//! Order statistics: they claim nothing about how times are distributed.

use serde::Serialize;

/// What a set of values is like.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// How many.
    pub n: usize,
    /// The least.
    pub min: f64,
    /// The median: the mean of the two in the middle if there are two.
    pub median: f64,
    /// A 95 % interval of the median, from the binomial distribution; `None` with fewer than six values, which have none.
    pub interval: Option<(f64, f64)>,
    /// The 25th percentile, nearest rank.
    pub p25: f64,
    /// The 75th.
    pub p75: f64,
    /// The 90th.
    pub p90: f64,
    /// The most.
    pub max: f64,
}

impl Summary {
    /// Of `values`; `None` if there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let n = values.len();
        let (min, max) = (*values.first()?, *values.last()?);
        let rank = |hundredths: usize| values.get((n * hundredths).div_ceil(100).max(1) - 1).copied().unwrap_or(max);
        let middle = (values.get((n - 1) / 2).copied()?, values.get(n / 2).copied()?);
        let interval = outer(n).and_then(|k| Some((*values.get(k)?, *values.get(n - 1 - k)?)));
        let median = f64::midpoint(middle.0, middle.1);
        Some(Self { n, min, median, interval, p25: rank(25), p75: rank(75), p90: rank(90), max })
    }
}

/// How many values at each end are outside of the median's 95 % interval: the most with P(X ≤ k-1) ≤ 2.5 % for X
/// binomial with n and one half.
fn outer(n: usize) -> Option<usize> {
    // Logarithms, since one half to the n is soon nothing.
    let steps = f64::from(u32::try_from(n).ok()?);
    let mut term = -steps * std::f64::consts::LN_2;
    let (mut sum, mut k) = (0.0, 0_u32);
    loop {
        sum += term.exp();
        if sum > 0.025 {
            return usize::try_from(k).ok()?.checked_sub(1);
        }
        k += 1;
        term += ((steps - f64::from(k) + 1.0) / f64::from(k)).ln();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_what_tables_say() {
        let hundred = Summary::of((1..=100).map(f64::from)).unwrap();
        assert_eq!((hundred.median, hundred.p25, hundred.p90, hundred.max), (50.5, 25.0, 90.0, 100.0));
        // Conover's table: for n = 100 the ranks 40 and 61.
        assert_eq!(hundred.interval, Some((40.0, 61.0)));
        assert_eq!(Summary::of([3.0]).unwrap().median, 3.0);
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn with_five_values_nothing_can_be_said_and_with_six_little() {
        assert_eq!(Summary::of((1..=5).map(f64::from)).unwrap().interval, None);
        assert_eq!(Summary::of((1..=6).map(f64::from)).unwrap().interval, Some((1.0, 6.0)));
        assert!(outer(200_000).is_some_and(|k| k < 100_000));
    }
}
