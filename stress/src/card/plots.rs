//! The plots of a card, as SVG.
//!
//! Owns: axes, ticks, colours and legends.
//! Never: computes a figure.

use plotters::coord::CoordTranslate;
use plotters::prelude::*;

use super::figures::{Card, Load};
use super::limits::grouped;
use crate::report::Spread;

const SIZE: (u32, u32) = (900, 540);
/// Colours that the colour-blind can tell apart too.
const COLOURS: [RGBColor; 3] = [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115)];
/// Share of the messages below which a latency is not drawn.
const LEAST_SHARE: f64 = 0.005;
const MIB: f64 = 1_048_576.0;

type Drawn = Result<String, String>;

/// Draws what the lines mean.
fn legend<'a, C: CoordTranslate>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, C>,
    position: SeriesLabelPosition,
) -> Result<(), String> {
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()
        .map_err(text)
}

/// Latency CDFs of the open loop, both axes logarithmic: the second by nines, so that the tail is seen.
///
/// # Errors
/// What cannot be drawn.
pub fn latency(card: &Card, shares: &[f64]) -> Drawn {
    let loads: Vec<&Load> = card
        .latency
        .iter()
        .filter(|load| shares.contains(&load.share))
        .collect();
    let points = || loads.iter().flat_map(|load| &load.cdf);
    // The few that were fastest of all would take half the plot.
    let drawn = points().filter(|(_, share)| *share > LEAST_SHARE);
    let (least, most) = bounds(drawn.map(|(latency, _)| *latency));
    // How many messages there are for each that took longer. Of the last there is none: it stands a little above.
    let one_in = |share: f64| 1.0 / (1.0 - share).max(1e-12);
    let top = points()
        .filter(|(_, share)| *share < 1.0)
        .map(|(_, share)| one_in(*share))
        .fold(1e3, f64::max)
        * 2.0;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(text)?;
        let mut chart = ChartBuilder::on(&root)
            .caption("Latency of signals in the open loop", ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(52)
            .y_label_area_size(80)
            .build_cartesian_2d(
                (least * 0.8..most * 1.2)
                    .log_scale()
                    .with_key_points(steps(least * 0.8, most * 1.2)),
                (1.0..top)
                    .log_scale()
                    .with_key_points(vec![1.0, 2.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7]),
            )
            .map_err(text)?;
        chart
            .configure_mesh()
            .x_desc("latency from when a message should have left (log scale)")
            .y_desc("share of messages that took no longer")
            .x_label_formatter(&|latency| micros(*latency))
            .y_label_formatter(&|one_in| percent(*one_in))
            .axis_desc_style(("sans-serif", 16))
            .label_style(("sans-serif", 14))
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.15))
            .draw()
            .map_err(text)?;
        for (load, colour) in loads.iter().zip(COLOURS) {
            let line = load
                .cdf
                .iter()
                .filter(|(_, share)| *share > LEAST_SHARE)
                .map(|(latency, share)| (*latency, one_in(*share).min(top)));
            chart
                .draw_series(LineSeries::new(line, colour.stroke_width(2)))
                .map_err(text)?
                .label(format!(
                    "{:.0} % of the maximum, {} signals/s",
                    load.share * 100.0,
                    grouped(load.rate as u64)
                ))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
        }
        legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
        root.present().map_err(text)?;
    }
    Ok(svg)
}

/// Signals a second against connected peers, with the spread of the rounds.
///
/// # Errors
/// What cannot be drawn.
pub fn throughput(card: &Card) -> Drawn {
    let (least, most) = bounds(card.throughput.iter().map(|point| point.peers as f64));
    let top = card
        .throughput
        .iter()
        .map(|point| point.all.max.max(point.few.max))
        .fold(1.0, f64::max);
    let thousand = 1e3;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(text)?;
        let mut chart = ChartBuilder::on(&root)
            .caption("Signals a second against connected peers", ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(52)
            .y_label_area_size(80)
            .build_cartesian_2d(
                (least * 0.8..most * 1.25)
                    .log_scale()
                    .with_key_points(steps(least * 0.8, most * 1.25)),
                0.0..top / thousand * 1.25,
            )
            .map_err(text)?;
        chart
            .configure_mesh()
            .x_desc("connected peers (log scale)")
            .y_desc("thousand signals a second")
            .x_label_formatter(&|peers| grouped(*peers as u64))
            .y_label_formatter(&|rate| format!("{rate:.0}"))
            .axis_desc_style(("sans-serif", 16))
            .label_style(("sans-serif", 14))
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.15))
            .draw()
            .map_err(text)?;
        let series: [(&str, Vec<(f64, Spread)>); 2] = [
            (
                "all of them in pairs, 1 under way in each",
                card.throughput
                    .iter()
                    .map(|point| (point.peers as f64, point.all))
                    .collect(),
            ),
            (
                "50 pairs of them, 16 under way in each",
                card.throughput
                    .iter()
                    .map(|point| (point.peers as f64, point.few))
                    .collect(),
            ),
        ];
        for ((name, points), colour) in series.into_iter().zip(COLOURS) {
            let line = points.iter().map(|(peers, spread)| (*peers, spread.median / thousand));
            chart
                .draw_series(LineSeries::new(line, colour.stroke_width(2)).point_size(4))
                .map_err(text)?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
            let spreads = points.iter().map(|(peers, spread)| {
                let ends = [(*peers, spread.min / thousand), (*peers, spread.max / thousand)];
                PathElement::new(ends, colour.mix(0.6))
            });
            chart.draw_series(spreads).map_err(text)?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperRight)?;
        root.present().map_err(text)?;
    }
    Ok(svg)
}

/// Memory against connected peers: what was measured, and the lines through it.
///
/// # Errors
/// What cannot be drawn.
pub fn memory(card: &Card) -> Drawn {
    let most = card
        .memory
        .points
        .iter()
        .map(|point| point.peers)
        .max()
        .unwrap_or(1)
        .max(card.prediction.peers) as f64;
    let rss = |peers: f64| card.memory.rss_line.at(peers) / MIB;
    let kernel = |peers: f64| card.memory.kernel_line.at(peers) / MIB;
    let top = rss(most).max(kernel(most)).max(rss(0.0)).max(1.0);
    let measured = |figure: &str| {
        let row = card.prediction.rows.iter().find(|row| row.figure == figure);
        row.map_or(f64::NAN, |row| row.measured)
    };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(text)?;
        let mut chart = ChartBuilder::on(&root)
            .caption("Memory against connected peers", ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(52)
            .y_label_area_size(80)
            .build_cartesian_2d(0.0..most * 1.05, 0.0..top * 1.35)
            .map_err(text)?;
        chart
            .configure_mesh()
            .x_desc("connected peers")
            .y_desc("memory, MiB")
            .x_labels(10)
            .x_label_formatter(&|peers| grouped(*peers as u64))
            .y_label_formatter(&|mib| {
                if top < 5.0 {
                    format!("{mib:.1}")
                } else {
                    format!("{mib:.0}")
                }
            })
            .axis_desc_style(("sans-serif", 16))
            .label_style(("sans-serif", 14))
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.15))
            .draw()
            .map_err(text)?;
        let process: Vec<(f64, f64)> = card
            .memory
            .points
            .iter()
            .map(|point| (point.peers as f64, point.rss / MIB))
            .collect();
        let sockets: Vec<(f64, f64)> = card
            .memory
            .points
            .iter()
            .map(|point| (point.peers as f64, point.kernel / MIB))
            .collect();
        let lines = [
            (
                format!("process (RSS), {:.0} B for each peer", card.memory.rss_per_peer),
                process,
                [rss(0.0), rss(most)],
            ),
            (
                format!(
                    "kernel, for its sockets, {:.0} B for each peer",
                    card.memory.kernel_per_peer
                ),
                sockets,
                [kernel(0.0), kernel(most)],
            ),
        ];
        for ((name, points, [from, to]), colour) in lines.into_iter().zip(COLOURS) {
            let dots = points.into_iter().map(|point| Circle::new(point, 4, colour.filled()));
            chart.draw_series(dots).map_err(text)?;
            chart
                .draw_series(LineSeries::new(
                    [(0.0, from.max(0.0)), (most, to)],
                    colour.stroke_width(2),
                ))
                .map_err(text)?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
        }
        let further = [measured("memory of the process"), measured("memory of the kernel")];
        let crosses = further.into_iter().zip(COLOURS).filter(|(mib, _)| mib.is_finite());
        chart
            .draw_series(
                crosses.map(|(mib, colour)| Cross::new((card.prediction.peers as f64, mib), 6, colour.stroke_width(2))),
            )
            .map_err(text)?
            .label("measured at the further load")
            .legend(|(x, y)| Cross::new((x + 10, y), 5, BLACK.stroke_width(2)));
        legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
        root.present().map_err(text)?;
    }
    Ok(svg)
}

fn text(error: impl std::fmt::Display) -> String {
    format!("a plot: {error}")
}

/// Least and greatest; something to draw, if there are none.
fn bounds(figures: impl Iterator<Item = f64>) -> (f64, f64) {
    let (least, most) = figures.fold((f64::INFINITY, 0.0), |(least, most), figure: f64| {
        (f64::min(least, figure), f64::max(most, figure))
    });
    if least < most {
        (least.max(1e-3), most)
    } else {
        (1.0, 10.0)
    }
}

/// Ticks of a logarithmic axis: 1, 2 and 5 of each power of ten.
fn steps(least: f64, most: f64) -> Vec<f64> {
    let powers = least.log10().floor() as i32..=most.log10().ceil() as i32;
    let ticks = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power)));
    ticks.filter(|tick| (least..=most).contains(tick)).collect()
}

/// Microseconds with the unit that suits them.
fn micros(latency: f64) -> String {
    match latency {
        ..1e3 => format!("{latency:.0} µs"),
        ..1e6 => format!("{:.0} ms", latency / 1e3),
        _ => format!("{:.0} s", latency / 1e6),
    }
}

/// The share of messages that took no longer, if one in so many did: 10 is 90 %, 100 is 99 %.
fn percent(one_in: f64) -> String {
    let digits = (one_in.log10().round() as usize).saturating_sub(2);
    format!("{:.digits$} %", (1.0 - 1.0 / one_in) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_written_as_people_read_them() {
        assert_eq!(
            (micros(20.0), micros(3000.0), micros(2e6)),
            ("20 µs".into(), "3 ms".into(), "2 s".into())
        );
        assert_eq!([1.0, 2.0, 10.0, 1e3].map(percent), ["0 %", "50 %", "90 %", "99.9 %"]);
    }

    #[test]
    fn a_logarithmic_axis_has_ticks_between_its_ends() {
        assert_eq!(steps(80.0, 600.0), [100.0, 200.0, 500.0]);
    }

    #[test]
    fn bounds_are_never_empty() {
        assert_eq!(bounds([3.0, 7.0].into_iter()), (3.0, 7.0));
        assert_eq!(bounds([3.0].into_iter()), (1.0, 10.0));
        assert_eq!(bounds(std::iter::empty()), (1.0, 10.0));
    }
}
