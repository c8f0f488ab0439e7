//! What the tests of the feature pipeline share: tables in files of every kind, what their rows must be, and a device that goes wrong.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use dolmen::feature::{Device, Layout, Table};
use dolmen::format::value::Dict;
use dolmen::{
    Builder, Checkpoint, DType, Durability, Error, ErrorKind, FileOptions, Result, SaveOptions, TensorData, Value,
};

use super::Random;

/// A block of the files that are written here, in bytes: the shortest there can be.
pub const BLOCK: usize = 4096;

/// Saving that does not wait for the disk.
pub fn quickly() -> SaveOptions {
    SaveOptions::new().durability(Durability::None)
}

/// One row of a table, as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub id: String,
    pub label: i64,
    pub bytes: Vec<u8>,
}

/// The rows of a table in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    pub dtype: DType,
    pub width: usize,
    pub rows: Vec<Row>,
}

pub fn size_of_dtype(dtype: DType) -> usize {
    dtype.bits() as usize / 8
}

impl Model {
    /// Rows of random finite numbers, whose ids and labels tell them apart.
    pub fn random(random: &mut Random, dtype: DType, width: usize, rows: usize) -> Model {
        let row = |n: usize, random: &mut Random| Row {
            id: format!("id{n}"),
            label: n as i64 * 7 - 3,
            bytes: (0..width).flat_map(|_| element(random, dtype)).collect(),
        };
        Model { dtype, width, rows: (0..rows).map(|n| row(n, random)).collect() }
    }

    pub fn row_len(&self) -> usize {
        self.width * size_of_dtype(self.dtype)
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.rows.iter().flat_map(|row| row.bytes.clone()).collect()
    }

    pub fn bytes_of(&self, rows: &[u64]) -> Vec<u8> {
        rows.iter().flat_map(|&row| self.rows[row as usize].bytes.clone()).collect()
    }

    pub fn labels_of(&self, rows: &[u64]) -> Vec<i64> {
        rows.iter().map(|&row| self.rows[row as usize].label).collect()
    }

    pub fn part(&self, rows: Range<usize>) -> Model {
        Model { rows: self.rows[rows].to_vec(), ..*self }
    }

    pub fn columns(&self, columns: Range<usize>) -> Model {
        let size = size_of_dtype(self.dtype);
        let cut =
            |row: &Row| Row { bytes: row.bytes[columns.start * size..columns.end * size].to_vec(), ..row.clone() };
        Model { dtype: self.dtype, width: columns.len(), rows: self.rows.iter().map(cut).collect() }
    }

    pub fn take(&self, rows: &[u64]) -> Model {
        Model { rows: rows.iter().map(|&row| self.rows[row as usize].clone()).collect(), ..*self }
    }

    /// Cuts the rows into parts at random places, of which some may be empty.
    pub fn parts(&self, random: &mut Random, count: usize) -> Vec<Model> {
        let mut cuts: Vec<usize> = (1..count).map(|_| random.below(self.rows.len() + 1)).collect();
        cuts.extend([0, self.rows.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|cut| self.part(cut[0]..cut[1])).collect()
    }
}

/// The bytes of a finite number.
fn element(random: &mut Random, dtype: DType) -> Vec<u8> {
    let number = random.below(4001) as f32 / 8.0 - 250.0;
    match dtype {
        DType::F32 => number.to_le_bytes().to_vec(),
        DType::F16 => dolmen::half::f16::from_f32(number).to_le_bytes().to_vec(),
        DType::BF16 => dolmen::half::bf16::from_f32(number).to_le_bytes().to_vec(),
        DType::F64 => f64::from(number).to_le_bytes().to_vec(),
        other => random.bytes(size_of_dtype(other)),
    }
}

/// The kinds of files that tables are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Dolmen,
    Safetensors,
    Torch,
}

/// How the rows lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A tensor of rows.
    Matrix,
    /// A tensor for each row.
    List,
    /// A tensor of which each row has other elements around it.
    Strided,
}

/// What a file has.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    pub kind: Kind,
    pub shape: Shape,
    pub ids: bool,
    pub labels: bool,
}

impl Made {
    pub fn new(kind: Kind) -> Made {
        Made { kind, shape: Shape::Matrix, ids: true, labels: true }
    }
}

fn options() -> FileOptions {
    FileOptions::new().alignment(64).unwrap().block_len(BLOCK as u64).unwrap()
}

/// The file of a table, without its path.
fn builder<'a>(model: &Model, made: Made) -> Builder<'a> {
    let mut b = Builder::with_options(options());
    let (rows, width) = (model.rows.len(), model.width);
    let mut document = Dict::new();
    if made.ids {
        document.push("ids", model.rows.iter().map(|row| row.id.as_str()).collect::<Value>());
    }
    match made.shape {
        Shape::Matrix => {
            b.tensor("data", TensorData::raw(model.dtype, [rows, width], model.bytes()).unwrap()).unwrap();
            document.push("data", Value::tensor("data"));
        }
        Shape::List => {
            let mut list = Vec::new();
            for (n, row) in model.rows.iter().enumerate() {
                let name = format!("data.{n}");
                b.tensor(&name, TensorData::raw(model.dtype, [width], row.bytes.clone()).unwrap()).unwrap();
                list.push(Value::tensor(name));
            }
            document.push("data", Value::List(list));
        }
        Shape::Strided => {
            let around = vec![0xEE; 3 * size_of_dtype(model.dtype)];
            let bytes: Vec<u8> = model.rows.iter().flat_map(|row| [&row.bytes[..], &around].concat()).collect();
            let len = bytes.len().saturating_sub(around.len());
            let data = TensorData::strided(model.dtype, [rows, width], [width + 3, 1], bytes[..len].to_vec());
            b.tensor("data", data.unwrap()).unwrap();
            document.push("data", Value::tensor("data"));
        }
    }
    if made.labels {
        document.push("labels", model.rows.iter().map(|row| row.label).collect::<Value>());
    }
    b.document(document.into());
    b
}

/// Bytes of a file of a table.
pub fn file_of(model: &Model, made: Made) -> Vec<u8> {
    if made.kind == Kind::Safetensors {
        return safetensors_of(model, made.labels);
    }
    let dolmen = builder(model, made).to_vec().unwrap();
    if made.kind == Kind::Dolmen {
        return dolmen;
    }
    #[cfg(feature = "torch")]
    {
        let mut bytes = Vec::new();
        let options = dolmen::foreign::torch::ExportOptions::new();
        let _ = dolmen::foreign::torch::write(&Checkpoint::from_bytes(&dolmen).unwrap(), &mut bytes, options).unwrap();
        bytes
    }
    #[cfg(not(feature = "torch"))]
    unreachable!()
}

/// A safetensors file, which has no texts: the numbers of ids are a tensor.
fn safetensors_of(model: &Model, labels: bool) -> Vec<u8> {
    let (rows, width) = (model.rows.len(), model.width);
    let data = model.bytes();
    let ids: Vec<u8> = (0..rows as i64).flat_map(i64::to_le_bytes).collect();
    let label_bytes: Vec<u8> = model.rows.iter().flat_map(|row| row.label.to_le_bytes()).collect();
    let (a, b, c) =
        (ids.len(), ids.len() * if labels { 2 } else { 1 }, ids.len() * if labels { 2 } else { 1 } + data.len());
    let name = model.dtype.to_string().to_uppercase();
    let mut header = format!(r#"{{"ids":{{"dtype":"I64","shape":[{rows}],"data_offsets":[0,{a}]}},"#);
    if labels {
        header += &format!(r#""labels":{{"dtype":"I64","shape":[{rows}],"data_offsets":[{a},{b}]}},"#);
    }
    header += &format!(r#""data":{{"dtype":"{name}","shape":[{rows},{width}],"data_offsets":[{b},{c}]}}}}"#);
    while header.len() % 8 != 0 {
        header.push(' ');
    }
    let mut file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &ids].concat();
    if labels {
        file.extend(label_bytes);
    }
    file.extend(data);
    file
}

/// Writes a table's file.
pub fn write(dir: &Path, name: &str, model: &Model, made: Made) -> PathBuf {
    let extension = match made.kind {
        Kind::Dolmen => "dolmen",
        Kind::Safetensors => "safetensors",
        Kind::Torch => "pt",
    };
    let path = dir.join(format!("{name}.{extension}"));
    std::fs::write(&path, file_of(model, made)).unwrap();
    path
}

/// A table in memory: lent where it can be.
pub fn in_memory(model: &Model, made: Made) -> Table {
    let checkpoint = Checkpoint::from_bytes(&file_of(model, made)).unwrap();
    Table::of_checkpoints([checkpoint], &Layout::new()).unwrap()
}

/// Where the bytes of a tensor lie in a file.
pub fn place(path: &Path, tensor: &str) -> Range<usize> {
    let checkpoint = Checkpoint::open_on_demand(path).unwrap();
    let tensor = checkpoint.tensor(tensor).unwrap();
    let start = tensor.file_offset().unwrap() as usize;
    start..start + tensor.byte_len() as usize
}

/// Changes a byte of a file where it lies.
pub fn flip(path: &Path, at: usize) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[!byte[0]], at as u64).unwrap();
}

/// Runs something that must not wait for ever.
pub fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = sender.send(work());
    });
    match receiver.recv_timeout(Duration::from_secs(60)) {
        Ok(done) => done,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it waits for ever"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!(),
        },
    }
}

/// What a device is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Allocate,
    Lane,
    Parts,
    Fill,
    Finish,
    Acquire,
    Release,
    ReadBack,
}

pub const CALLS: [Call; 8] =
    [Call::Allocate, Call::Lane, Call::Parts, Call::Fill, Call::Finish, Call::Acquire, Call::Release, Call::ReadBack];

/// How one call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Fails,
    /// In the middle: after something was written.
    Panics,
}

/// What became of the calls of a device.
#[derive(Debug, Default)]
pub struct Seen {
    calls: [AtomicU64; CALLS.len()],
    /// Pieces of memory, and lanes, that there are; and the most there were.
    pub memory: Counter,
    pub lanes: Counter,
    /// Whether memory was used in an order in which it must not be.
    pub misused: AtomicBool,
}

#[derive(Debug, Default)]
pub struct Counter {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Counter {
    fn add(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    pub fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }

    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

impl Seen {
    pub fn count(&self, call: Call) -> u64 {
        self.calls[call as usize].load(Ordering::SeqCst)
    }

    fn misuse(&self, what: &str) {
        eprintln!("misused: {what}");
        self.misused.store(true, Ordering::SeqCst);
    }
}

/// A device in memory that works as a GPU does, through a buffer of each lane: slowly at times, and wrong if asked to.
#[derive(Debug)]
pub struct Trial {
    pub seen: Arc<Seen>,
    pub part_len: usize,
    /// The call that goes wrong, by its number among calls of its kind.
    pub wrong: Option<(Call, u64, Wrong)>,
    /// Waits up to so many microseconds at some calls.
    pub delay: u64,
}

impl Trial {
    pub fn new(part_len: usize) -> Trial {
        Trial { seen: Arc::new(Seen::default()), part_len, wrong: None, delay: 0 }
    }

    fn call(&self, call: Call) -> Result<()> {
        let number = self.seen.calls[call as usize].fetch_add(1, Ordering::SeqCst);
        if self.delay > 0 {
            let wait = Random::new(number ^ (call as u64) << 32).below(2 * self.delay as usize) as u64;
            std::thread::sleep(Duration::from_micros(wait.saturating_sub(self.delay)));
        }
        match self.wrong {
            Some((wrong, at, Wrong::Fails)) if wrong == call && at == number => {
                Err(Error::new(ErrorKind::Device, format!("{call:?} number {number} fails")))
            }
            Some((wrong, at, Wrong::Panics)) if wrong == call && at == number => panic!("{call:?} number {number}"),
            _ => Ok(()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Filling,
    Finished,
    Acquired,
    Released,
}

/// Memory of a [`Trial`].
#[derive(Debug)]
pub struct TrialMemory {
    bytes: Vec<u8>,
    state: State,
    seen: Arc<Seen>,
}

impl Drop for TrialMemory {
    fn drop(&mut self) {
        self.seen.memory.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A lane of a [`Trial`].
#[derive(Debug)]
pub struct TrialLane {
    buffer: Vec<u8>,
    seen: Arc<Seen>,
}

impl Drop for TrialLane {
    fn drop(&mut self) {
        self.seen.lanes.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Device for Trial {
    type Memory = TrialMemory;
    type Lane = TrialLane;
    type Part<'m> = &'m mut [u8];

    fn name(&self) -> String {
        "trial".to_owned()
    }

    fn allocate(&self, byte_len: usize) -> Result<TrialMemory> {
        self.call(Call::Allocate)?;
        self.seen.memory.add();
        Ok(TrialMemory { bytes: vec![0xAA; byte_len], state: State::New, seen: Arc::clone(&self.seen) })
    }

    fn lane(&self) -> Result<TrialLane> {
        self.call(Call::Lane)?;
        self.seen.lanes.add();
        Ok(TrialLane { buffer: vec![0xBB; self.part_len], seen: Arc::clone(&self.seen) })
    }

    fn max_part_len(&self) -> usize {
        self.part_len
    }

    fn lane_byte_len(&self) -> usize {
        self.part_len
    }

    fn parts<'m>(&self, memory: &'m mut TrialMemory, byte_lens: &[usize]) -> Result<Vec<&'m mut [u8]>> {
        self.call(Call::Parts)?;
        if memory.state == State::Acquired {
            self.seen.misuse("it is filled while it is in use");
        }
        memory.state = State::Filling;
        let mut rest = &mut memory.bytes[..];
        let cut =
            |&len: &usize| rest.split_off_mut(..len).ok_or_else(|| Error::new(ErrorKind::InvalidInput, "too long"));
        byte_lens.iter().map(cut).collect()
    }

    fn fill(
        &self,
        lane: &mut TrialLane,
        part: &mut [u8],
        write: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let buffer = lane.buffer.get_mut(..part.len()).ok_or_else(|| {
            self.seen.misuse("a part is longer than the buffers");
            Error::new(ErrorKind::InvalidInput, "a part is longer than the buffers")
        })?;
        buffer.fill(0xBB);
        let written = write(buffer);
        self.call(Call::Fill)?;
        written?;
        part.copy_from_slice(buffer);
        Ok(())
    }

    fn finish(&self, _: &mut TrialLane, memory: &mut TrialMemory) -> Result<()> {
        self.call(Call::Finish)?;
        if !matches!(memory.state, State::Filling | State::Finished) {
            self.seen.misuse("it is finished and was not filled");
        }
        memory.state = State::Finished;
        Ok(())
    }

    fn acquire(&self, memory: &mut TrialMemory) -> Result<()> {
        self.call(Call::Acquire)?;
        if memory.state != State::Finished {
            self.seen.misuse("it is acquired and was not finished");
        }
        memory.state = State::Acquired;
        Ok(())
    }

    fn release(&self, memory: &mut TrialMemory) -> Result<()> {
        self.call(Call::Release)?;
        if memory.state != State::Acquired {
            self.seen.misuse("it is released and was not acquired");
        }
        memory.state = State::Released;
        Ok(())
    }

    fn synchronize(&self, _: &TrialMemory) -> Result<()> {
        Ok(())
    }

    fn read_back(&self, memory: &TrialMemory, bytes: Range<usize>) -> Result<Vec<u8>> {
        self.call(Call::ReadBack)?;
        if memory.state != State::Acquired {
            self.seen.misuse("it is read and was not acquired");
        }
        memory.bytes.get(bytes).map(<[u8]>::to_vec).ok_or_else(|| Error::new(ErrorKind::InvalidInput, "no such bytes"))
    }
}
