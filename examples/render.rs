//! The Mandelbrot set, cut into tiles: one task a tile, over four slaves or as many as there are.
//!
//! ```sh
//! cargo run --release --example render                                # four slaves in this process
//! cargo run --release --example render -- --serve --port 7301 &       # or in others, here or elsewhere
//! cargo run --release --example render -- --serve --port 7302 &
//! cargo run --release --example render -- --slaves 127.0.0.1:7301,127.0.0.1:7302 --width 3840 --height 2160
//! ```
//!
//! Writes a PNG and tells where, and how many tiles each slave made. Kill a slave half-way: its tile
//! goes to another, and the picture is the same. Start it again on its port and it takes part again.

#![allow(clippy::print_stdout, reason = "a program speaks to its user")]
#![allow(clippy::print_stderr, reason = "a program speaks to its user")]

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use interplay::master::Master;
use interplay::pool::{
    Observer, Options, SlaveChange, SlaveState, Snapshot, TaskEnded, TaskRetried,
};
use interplay::slave::{self, Slave, TaskFail};
use serde::{Deserialize, Serialize};

type BoxError = Box<dyn Error + Send + Sync>;

/// The side of a tile, in pixels.
const TILE: u32 = 64;
/// What is seen: the middle and the width, in the plane of complex numbers.
const MIDDLE: (f64, f64) = (-0.743_643_9, 0.131_825_9);
const WIDTH: f64 = 0.004;

/// Renders the Mandelbrot set with many slaves.
#[derive(Parser)]
struct Args {
    /// Addresses of slaves [default: four in this process]
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    slaves: Vec<String>,
    /// Width of the picture, in pixels
    #[arg(long, default_value_t = 1280, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    width: u32,
    /// Height of the picture, in pixels
    #[arg(long, default_value_t = 720, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    height: u32,
    /// Steps after which a point counts as within the set
    #[arg(long, default_value_t = 2000)]
    steps: u32,
    /// Where the picture is written [default: interplay-render.png in the folder for temporary files]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Be a slave for such pictures until somebody ends it
    #[arg(long, conflicts_with_all = ["slaves", "output"])]
    serve: bool,
    /// Address to serve on; 0.0.0.0 lets masters on other machines in
    #[arg(long, default_value = "127.0.0.1", requires = "serve")]
    host: String,
    /// Port to serve on; 0 lets the system choose
    #[arg(long, default_value_t = 7236, requires = "serve")]
    port: u16,
}

/// A task: which part of which picture.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Tile {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
    /// The size of the whole picture.
    of: (u32, u32),
    steps: u32,
}

/// The pixels of a tile, row by row, as red, green and blue.
type Pixels = Vec<[u8; 3]>;

fn main() -> ExitCode {
    let args = Args::parse();
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("off"));
    let done = if args.serve { serve(&args) } else { draw(args) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("render: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &Args) -> Result<(), BoxError> {
    let slave = start_slave(&args.host, args.port)?;
    println!("serving on {}", slave.local_addr());
    Ok(slave.join()?)
}

fn draw(args: Args) -> Result<(), BoxError> {
    let began = Instant::now();
    let mut addresses = args.slaves;
    let mut own = Vec::new();
    if addresses.is_empty() {
        for _ in 0..4 {
            own.push(start_slave("127.0.0.1", 0)?);
        }
        let address = |slave: &Slave| slave.local_addr().to_string();
        addresses = own.iter().map(address).collect();
    }

    let tiles = tiles(args.width, args.height, args.steps);
    let progress = Progress::new(tiles.len());
    let all_here = addresses.iter().all(|address| address.starts_with("127."));
    let master = Master::builder()
        .host(if all_here { "127.0.0.1" } else { "0.0.0.0" })
        .port(0)
        .heartbeat_tolerance(Duration::from_secs(4)) // fits the beats of `start_slave`
        .start()?;
    let mut pool = master
        .pool()
        .connect_deadline(Duration::from_secs(30))
        .defaults(Options::new().retries(1))
        .observer(progress.clone());
    for address in addresses {
        pool = pool.slave(address.clone(), address);
    }
    let pool = pool.start()?;

    // In any order: a tile knows its place.
    let mut picture = vec![[0; 3]; args.width as usize * args.height as usize];
    for (number, pixels) in pool.map::<Pixels, _>(&tiles) {
        put(&mut picture, &tiles[number as usize], &pixels?)?;
    }
    progress.bar.finish_and_clear();

    let output = args
        .output
        .unwrap_or_else(|| std::env::temp_dir().join("interplay-render.png"));
    write_png(&output, args.width, args.height, &picture)
        .map_err(|error| format!("{}: {error}", output.display()))?;
    print_summary(&pool.snapshot(), began.elapsed());
    println!("{}", output.display());
    Ok(()) // dropping the pool disconnects the slaves, dropping the slaves ends them
}

fn start_slave(host: &str, port: u16) -> Result<Slave, slave::Error> {
    Slave::builder()
        .host(host)
        .port(port)
        .heartbeat_span(Duration::from_millis(500))
        .start(slave::typed(render))
}

/// What a slave does for each task.
fn render(tile: Tile) -> Result<Pixels, TaskFail> {
    let (width, height) = tile.of;
    let pixel = WIDTH / f64::from(width);
    let rows = tile.top..tile.top.saturating_add(tile.height).min(height);
    let pixels = rows.flat_map(|row| {
        let columns = tile.left..tile.left.saturating_add(tile.width).min(width);
        columns.map(move |column| {
            let x = MIDDLE.0 + (f64::from(column) - f64::from(width) / 2.0) * pixel;
            let y = MIDDLE.1 - (f64::from(row) - f64::from(height) / 2.0) * pixel;
            colour(escape(x, y, tile.steps))
        })
    });
    Ok(pixels.collect())
}

/// After how many steps, with a fraction, the point leaves for infinity; none if it stays.
fn escape(x: f64, y: f64, steps: u32) -> Option<f64> {
    let (mut a, mut b) = (0.0, 0.0);
    for step in 0..steps {
        (a, b) = (a * a - b * b + x, 2.0 * a * b + y);
        let square: f64 = a * a + b * b;
        if square > 256.0 {
            return Some(f64::from(step) + 1.0 - (square.ln() / 2.0).log2());
        }
    }
    None
}

fn colour(escape: Option<f64>) -> [u8; 3] {
    let Some(escape) = escape else { return [0; 3] };
    let wave = |phase: f64| (127.5 - 127.5 * (escape.sqrt() * 0.6 + phase).cos()) as u8;
    [wave(0.0), wave(0.6), wave(1.2)]
}

/// The picture's tiles; those at the right and the lower edge are smaller.
fn tiles(width: u32, height: u32, steps: u32) -> Vec<Tile> {
    let step = TILE as usize;
    let tops = (0..height).step_by(step);
    tops.flat_map(|top| {
        (0..width).step_by(step).map(move |left| Tile {
            left,
            top,
            width: TILE.min(width - left),
            height: TILE.min(height - top),
            of: (width, height),
            steps,
        })
    })
    .collect()
}

fn put(picture: &mut [[u8; 3]], tile: &Tile, pixels: &[[u8; 3]]) -> Result<(), BoxError> {
    let (left, width) = (tile.left as usize, tile.width as usize);
    if pixels.len() != width * tile.height as usize {
        return Err("a slave made a tile of another size".into());
    }
    let rows = picture
        .chunks_mut(tile.of.0 as usize)
        .skip(tile.top as usize);
    for (row, made) in rows.zip(pixels.chunks(width)) {
        row[left..left + width].copy_from_slice(made);
    }
    Ok(())
}

fn write_png(path: &Path, width: u32, height: u32, picture: &[[u8; 3]]) -> Result<(), BoxError> {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.as_flattened())?;
    Ok(writer.finish()?)
}

/// Shows how far it is: a bar on a terminal, otherwise a line for each tenth.
#[derive(Clone)]
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(tiles: usize) -> Self {
        let bar = ProgressBar::new(tiles as u64);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos} of {len} tiles, {eta}") {
            bar.set_style(style);
        }
        Self { bar }
    }

    fn tell(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}

impl Observer for Progress {
    fn slave_changed(&self, change: &SlaveChange<'_>) {
        if let (SlaveState::Connecting | SlaveState::GivenUp, Some(why)) =
            (change.state, change.why)
        {
            self.tell(&format!("{}: {}: {why}", change.slave, change.state));
        }
    }

    fn task_retried(&self, retried: &TaskRetried<'_>) {
        self.tell(&format!("a tile goes to another slave: {}", retried.why));
    }

    fn task_ended(&self, _: &TaskEnded<'_>) {
        self.bar.inc(1);
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
        if self.bar.is_hidden() && done * 10 / all > (done - 1) * 10 / all {
            eprintln!("{done} of {all} tiles");
        }
    }
}

fn print_summary(end: &Snapshot, time: Duration) {
    println!("{:<24} {:>6} {:>6}  now", "slave", "tiles", "losses");
    for slave in &end.slaves {
        println!(
            "{:<24} {:>6} {:>6}  {}",
            slave.name, slave.finished, slave.losses, slave.state
        );
    }
    println!(
        "{} tiles in {time:.1?}, {} lost, {} tried again",
        end.done, end.lost, end.retried
    );
}

/// An error and its causes, in one line.
fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}
