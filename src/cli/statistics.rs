//! `voxtile statistics`, and the files of statistics that it and `voxtile segment` write.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};
use voxtile::base::Pool;
use voxtile::base::mapping::Bytes;
use voxtile::formats::{self, Image, OutputFile, nrrd};
use voxtile::model::Label;
use voxtile::session::{self, LabelMap};
use voxtile::{Error, Geometry, Model};

use super::arguments::Statistics;
use super::failure::{Exit, Failure};
use super::print;
use super::report::{Found, by_label};

/// How a file of statistics is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Csv,
    Json,
}

impl Form {
    /// By the file's ending.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        match ending.as_deref() {
            Some("csv") => Ok(Self::Csv),
            Some("json") => Ok(Self::Json),
            _ => Err(Failure::new(
                Exit::Output,
                format!(
                    "output {}: statistics are written as CSV or JSON; the name must end in .csv \
                     or .json",
                    path.display()
                ),
            )),
        }
    }
}

/// Measures the labels of a label map.
pub fn statistics(arguments: &Statistics) -> Result<(), Failure> {
    let path = &arguments.labels;
    let output = arguments.output.as_deref().map(|path| Ok((path, Form::of(path)?)));
    let output = output.transpose()?;
    if let Some((output, _)) = output {
        check_output(output, arguments)?;
    }
    let model = arguments.model.as_ref().map(Model::open).transpose();
    let model = model.map_err(Failure::of(Exit::Model))?;
    let failed = Failure::of(Exit::Input);
    let map = formats::read(path).map_err(&failed)?;
    let labels = LabelMap::from_volume(&map.view()).map_err(|error| match error {
        Error::Argument(reason) => {
            Failure::new(Exit::Input, format!("{}: {reason}", path.display()))
        }
        other => failed(other),
    })?;
    // Only the grid of the label map is needed from here on.
    let map = Image { bytes: Bytes::default(), ..map };
    let image =
        arguments.image.as_deref().map(|image| read_image(image, path, &map)).transpose()?;
    let view = image.as_ref().map(Image::view);
    let pool = Pool::new(arguments.threads.unwrap_or(0)).map_err(Failure::of(Exit::Other))?;
    let statistics = session::statistics(&labels, map.dims, &map.geometry, view.as_ref(), &pool)
        .map_err(&failed)?;
    let found = match &model {
        Some(model) => by_label(&statistics, &model.package().labels),
        None => by_label(&statistics, &segments(path).map_err(&failed)?),
    };
    for warning in map.warnings.iter().chain(image.iter().flat_map(|image| &image.warnings)) {
        warn(warning);
    }
    match output {
        Some((path, form)) => write(path, form, &found).map_err(Failure::of(Exit::Output)),
        None => print(&table(&found)),
    }
}

/// What the header of a segmentation says of its labels.
fn segments(path: &Path) -> voxtile::Result<Vec<Label>> {
    let label = |segment: nrrd::Segment| Label {
        value: segment.value,
        name: segment.name,
        color: segment.color,
        code: segment.terminology.map(|is| format!("{}:{}", is.kind.scheme, is.kind.value)),
    };
    Ok(nrrd::read_segments(path)?.into_iter().map(label).collect())
}

/// Whether the output can be written and is none of the inputs.
fn check_output(output: &Path, arguments: &Statistics) -> Result<(), Failure> {
    // Opens a temporary file there and removes it.
    OutputFile::create(output).map_err(Failure::of(Exit::Output))?;
    let inputs = [Some(&arguments.labels), arguments.image.as_ref(), arguments.model.as_ref()];
    let same = |input: &Path| match (input.canonicalize(), output.canonicalize()) {
        (Ok(input), Ok(output)) => input == output,
        _ => false,
    };
    if inputs.into_iter().flatten().any(|input| same(input)) {
        return Err(Failure::new(
            Exit::Output,
            format!("output {} is also an input; name another file", output.display()),
        ));
    }
    Ok(())
}

/// The image that a label map belongs to.
fn read_image(path: &Path, labels: &Path, map: &Image) -> Result<Image, Failure> {
    let image = formats::read(path).map_err(Failure::of(Exit::Input))?;
    let (path, labels) = (path.display(), labels.display());
    if image.dims != map.dims {
        return Err(Failure::new(
            Exit::Input,
            format!(
                "{labels} has {:?} voxels and {path} has {:?}; a label map and its image have the \
                 same grid",
                map.dims, image.dims
            ),
        ));
    }
    let corner = |geometry: &Geometry, of: [f64; 3]| -> [f64; 3] {
        std::array::from_fn(|world| {
            let along =
                |axis: usize| geometry.direction[world][axis] * geometry.spacing[axis] * of[axis];
            geometry.origin[world] + along(0) + along(1) + along(2)
        })
    };
    let last = map.dims.map(|count| (count - 1) as f64);
    let corners = [[0.0; 3], [last[0], 0.0, 0.0], [0.0, last[1], 0.0], [0.0, 0.0, last[2]]];
    let smallest = map.geometry.spacing.into_iter().fold(f64::INFINITY, f64::min);
    let apart = corners.iter().any(|&of| {
        let (a, b) = (corner(&map.geometry, of), corner(&image.geometry, of));
        // A tenth of a voxel: what headers in single precision lose is far less.
        (0..3).any(|world| (a[world] - b[world]).abs() > 0.1 * smallest)
    });
    if apart {
        warn(&format!("{labels} and {path} lie at different places; the label map's is taken"));
    }
    Ok(image)
}

fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "warning: {text}");
}

/// Writes statistics into a file that appears when it is whole.
pub fn write(path: &Path, form: Form, found: &[Found]) -> voxtile::Result<()> {
    let mut output = OutputFile::create(path)?;
    let written = match form {
        Form::Csv => write_csv(&mut output, found),
        Form::Json => {
            let labels: Vec<Value> = found.iter().map(Found::json).collect();
            writeln!(output, "{:#}", json!({ "statistics_version": 1, "labels": labels }))
        }
    };
    written.map_err(|source| Error::io(path, source))?;
    output.finish()
}

const COLUMNS: [&str; 18] = [
    "value",
    "name",
    "code",
    "voxels",
    "milliliters",
    "mean",
    "standard_deviation",
    "minimum",
    "maximum",
    "low_i",
    "low_j",
    "low_k",
    "high_i",
    "high_j",
    "high_k",
    "centroid_x_mm_lps",
    "centroid_y_mm_lps",
    "centroid_z_mm_lps",
];

/// A line for each label; what is not known stays empty.
fn write_csv(output: &mut impl Write, found: &[Found]) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(output);
    writer.write_record(COLUMNS)?;
    for found in found {
        let mut fields = vec![
            found.label.value.to_string(),
            found.label.name.clone(),
            found.label.code.clone().unwrap_or_default(),
            found.voxels().to_string(),
            found.milliliters().to_string(),
        ];
        let statistics = found.statistics.as_ref();
        if let Some(intensity) = statistics.and_then(|statistics| statistics.intensity) {
            let values =
                [intensity.mean, intensity.deviation, intensity.minimum, intensity.maximum];
            fields.extend(values.map(|value| value.to_string()));
        } else {
            fields.resize(fields.len() + 4, String::new());
        }
        if let Some(statistics) = statistics {
            fields.extend(statistics.bounding_box.iter().flatten().map(usize::to_string));
            fields.extend(statistics.centroid_mm.map(|mm| mm.to_string()));
        }
        fields.resize(COLUMNS.len(), String::new());
        writer.write_record(&fields)?;
    }
    writer.flush()
}

/// What is shown where no file is asked for: labels that have voxels.
fn table(found: &[Found]) -> String {
    let present: Vec<_> =
        found.iter().filter_map(|found| Some((&found.label, found.statistics.as_ref()?))).collect();
    if present.is_empty() {
        return "no label but the background\n".into();
    }
    let width = present.iter().map(|(label, _)| label.name.chars().count()).max();
    let width = width.unwrap_or(0).max(4);
    let mut text = format!(
        "  value  {:width$}  {:>10}  {:>9}  {:>9}  {:>17}  {:>17}  {:>26}\n",
        "name", "mL", "mean", "deviation", "from i,j,k", "to i,j,k", "centroid x,y,z (mm, LPS)"
    );
    for (label, statistics) in present {
        let [mean, deviation] = match statistics.intensity {
            Some(intensity) => {
                [intensity.mean, intensity.deviation].map(|value| format!("{value:.1}"))
            }
            None => ["-", "-"].map(String::from),
        };
        let [low, high] = statistics.bounding_box.map(|[i, j, k]| format!("{i},{j},{k}"));
        let [x, y, z] = statistics.centroid_mm;
        let centroid = format!("{x:.1},{y:.1},{z:.1}");
        let _ = writeln!(
            text,
            "  {:5}  {:width$}  {:10.2}  {mean:>9}  {deviation:>9}  {low:>17}  {high:>17}  \
             {centroid:>26}",
            label.value, label.name, statistics.milliliters
        );
    }
    text
}
