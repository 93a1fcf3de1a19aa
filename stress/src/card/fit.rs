//! Figures of loads that were not measured, from those that were.
//!
//! Owns: least squares, of a line and of a curve through the origin, and what lies between two points.
//! Never: knows what the figures mean.

use super::figures::Line;

impl Line {
    /// The line that is nearest to these points; flat, if they all have the same `x`.
    pub fn through(points: &[(f64, f64)]) -> Self {
        let count = points.len().max(1) as f64;
        let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
        let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
        let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
        let common: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
        let slope = if spread > 0.0 { common / spread } else { 0.0 };
        Self {
            intercept: mean_y - slope * mean_x,
            slope,
        }
    }

    /// The line's `y` at `x`.
    pub fn at(&self, x: f64) -> f64 {
        self.intercept + self.slope * x
    }
}

/// `linear * x + square * x^2`: cost by rate, where each message costs less the more of them come at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curve {
    linear: f64,
    square: f64,
}

impl Curve {
    /// The curve that is nearest to these points, each weighted by its own size; a line through the origin, if they all
    /// have the same `x`.
    pub fn through(points: &[(f64, f64)]) -> Self {
        // Over x a curve through the origin is a line.
        let ratios: Vec<(f64, f64)> = points
            .iter()
            .filter(|(x, _)| *x > 0.0)
            .map(|(x, y)| (*x, y / x))
            .collect();
        let line = Line::through(&ratios);
        Self {
            linear: line.intercept,
            square: line.slope,
        }
    }

    /// The curve's `y` at `x`.
    pub fn at(&self, x: f64) -> f64 {
        self.linear * x + self.square * x * x
    }
}

/// The `y` at `x` on the straight way between the points on either side of it; past the last and before the first theirs.
/// The points are in the order of `x`.
pub fn between(points: &[(f64, f64)], x: f64) -> f64 {
    let after = points.partition_point(|(known, _)| *known <= x);
    let (before, after) = (after.checked_sub(1).and_then(|at| points.get(at)), points.get(after));
    match (before, after) {
        (Some((x0, y0)), Some((x1, y1))) => y0 + (y1 - y0) * (x - x0) / (x1 - x0),
        (Some((_, y)), None) | (None, Some((_, y))) => *y,
        (None, None) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn a_line_is_found_again_and_noise_falls_on_both_sides() {
        let line = Line::through(&[(1.0, 5.0), (2.0, 7.0), (4.0, 11.0)]);
        assert!(near(line.intercept, 3.0) && near(line.slope, 2.0), "{line:?}");
        let line = Line::through(&[(0.0, 1.0), (0.0, 3.0), (10.0, 11.0), (10.0, 13.0)]);
        assert!(near(line.at(5.0), 7.0), "{line:?}");
        assert!(near(Line::through(&[(3.0, 4.0)]).at(9.0), 4.0));
    }

    #[test]
    fn a_curve_through_the_origin_is_found_again() {
        let points: Vec<(f64, f64)> = [1.0, 2.0, 3.0].iter().map(|x| (*x, 4.0 * x - 0.5 * x * x)).collect();
        let curve = Curve::through(&points);
        assert!(near(curve.at(2.5), 4.0 * 2.5 - 0.5 * 6.25), "{curve:?}");
        assert!(near(Curve::through(&[(2.0, 6.0)]).at(4.0), 12.0));
    }

    #[test]
    fn between_two_points_the_way_is_straight_and_outside_it_is_level() {
        let points = [(1.0, 10.0), (2.0, 20.0), (4.0, 0.0)];
        for (x, y) in [
            (0.0, 10.0),
            (1.0, 10.0),
            (1.5, 15.0),
            (3.0, 10.0),
            (4.0, 0.0),
            (9.0, 0.0),
        ] {
            assert!(near(between(&points, x), y), "{x}");
        }
        assert!(near(between(&[], 1.0), 0.0));
    }
}
