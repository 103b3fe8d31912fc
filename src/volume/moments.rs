//! Mean, spread and extremes of many values, put together from parts.

use super::LineStatistics;

/// What is known of a set of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moments {
    count: u64,
    mean: f64,
    /// Sum of squared differences from the mean.
    squares: f64,
    /// Smallest and largest value; infinite if there is none.
    pub(super) range: (f32, f32),
}

impl Default for Moments {
    fn default() -> Self {
        Self { count: 0, mean: 0.0, squares: 0.0, range: (f32::INFINITY, f32::NEG_INFINITY) }
    }
}

impl Moments {
    pub(super) fn of(values: impl Iterator<Item = f32> + Clone) -> Self {
        let mut all = Self::default();
        let mut sum = 0.0;
        for value in values.clone() {
            all.count += 1;
            sum += f64::from(value);
            all.range = (all.range.0.min(value), all.range.1.max(value));
        }
        all.mean = sum / all.count.max(1) as f64;
        all.squares = values.map(|value| (f64::from(value) - all.mean).powi(2)).sum();
        all
    }

    /// Of the values of a line that count; the range is that of all of them.
    pub(super) fn of_line(line: &LineStatistics) -> Self {
        let LineStatistics { count, mean, squares, range } = *line;
        Self { count, mean, squares, range }
    }

    /// Both sets together (Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for
    /// computing sample variances", 1979).
    pub(super) fn and(self, other: Self) -> Self {
        let count = self.count + other.count;
        let (own, share) = (self.count as f64, other.count as f64 / count.max(1) as f64);
        let apart = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + apart * share,
            squares: self.squares + other.squares + apart * apart * own * share,
            range: (self.range.0.min(other.range.0), self.range.1.max(other.range.1)),
        }
    }

    /// Mean and standard deviation of the population; zeros if there is no value.
    pub(super) fn mean_and_deviation(self) -> (f64, f64) {
        (self.mean, (self.squares / self.count.max(1) as f64).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_give_what_the_whole_gives(
            values in proptest::collection::vec(-1000f32..1000.0, 0..60), at in 0usize..60
        ) {
            let at = at.min(values.len());
            let whole = Moments::of(values.iter().copied());
            let (a, b) = values.split_at(at);
            let parts = Moments::of(a.iter().copied()).and(Moments::of(b.iter().copied()));
            prop_assert_eq!(whole.range, parts.range);
            prop_assert_eq!(whole.count, parts.count);
            let ((mean, deviation), (other_mean, other_deviation)) =
                (whole.mean_and_deviation(), parts.mean_and_deviation());
            prop_assert!((mean - other_mean).abs() < 1e-9);
            prop_assert!((deviation - other_deviation).abs() < 1e-9);
        }
    }
}
