//! Safetensors: whatever both this crate and the crate `safetensors` take, they must take for the same.

use ::safetensors::SafeTensors;
use dolmen::ErrorKind;

use super::dice::Random;
use super::open::{self, Outcome};
use super::seal::Mutate;
use super::{heap, json};

/// Bytes as they come. What the other crate refuses we must refuse; what it takes we may refuse, for the reasons in `README.md`.
pub fn safetensors(data: &[u8]) -> Outcome {
    let theirs = SafeTensors::deserialize(data);
    let (ours, peak) = heap::peak(|| open::opened(data));
    // A header of JSON becomes a tree of values, and then an index.
    let allowed = (1 << 20) + 400 * data.len() as u64;
    assert!(peak <= allowed, "{peak} bytes were in use at a time for a file of {}; {allowed} are allowed", data.len());
    let ours = match ours {
        Ok(ours) => ours,
        Err(e) => {
            let kind = e.kind();
            let of_the_file = e.is_corruption() || e.is_incompatible() || kind == ErrorKind::Limit;
            assert!(of_the_file, "not an error of a file: {e:?}");
            return Outcome::Refused(e.rule().unwrap_or(kind.name()));
        }
    };
    if ours.format() == "dolmen" {
        return Outcome::Opened("dolmen");
    }
    let fault = open::touch(&ours);
    assert!(fault.is_none(), "it opened, and cannot be read: {fault:?}");
    let theirs = theirs.unwrap_or_else(|e| panic!("we take what safetensors refuses: {e}"));
    assert_eq!(ours.len(), theirs.len());
    for (name, theirs) in theirs.iter() {
        let ours = ours.tensor(name).expect("both have it");
        let shape: Vec<u64> = theirs.shape().iter().map(|&dim| dim as u64).collect();
        assert_eq!(ours.shape(), shape, "shape of {name:?}");
        assert_eq!(dtype_name(ours.dtype()), format!("{:?}", theirs.dtype()), "dtype of {name:?}");
        assert_eq!(ours.bytes().expect("in memory"), theirs.data(), "bytes of {name:?}");
        assert!(ours.is_contiguous());
    }
    #[cfg(all(feature = "npy", feature = "torch"))]
    if open::is_chosen(data, 16) {
        super::exports(&ours, data);
        open::other_ways(data, Outcome::Valid);
    }
    Outcome::Valid
}

const WORDS: json::Words = json::Words {
    keys: &["__metadata__", "dtype", "shape", "data_offsets", "w", "b", "a", "", "format", "h\u{e9}", "extra"],
    texts: &[
        "F32",
        "F16",
        "BF16",
        "F64",
        "I64",
        "I32",
        "I16",
        "I8",
        "U8",
        "U16",
        "U32",
        "U64",
        "BOOL",
        "C64",
        "F4",
        "F6_E2M3",
        "F6_E3M2",
        "F8_E4M3",
        "F8_E5M2",
        "F8_E8M0",
        "F8_E4M3FNUZ",
        "F8_E5M2FNUZ",
        "f32",
        "X",
        "",
        "pt",
        "\u{1b}",
    ],
};

/// Bits of the dtypes that the format has.
fn bits(dtype: &str) -> u64 {
    match dtype {
        "F64" | "I64" | "U64" | "C64" => 64,
        "F32" | "I32" | "U32" => 32,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        _ => 8,
    }
}

/// The mutation of the target `safetensors`: the header by its values; then, most often, places and data are made to fit.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32, mutate: &mut Mutate<'_>) -> usize {
    let mut random = Random(seed.into());
    let header = (|| {
        let (len, rest) = data[..size].split_first_chunk::<8>()?;
        let header = rest.get(..usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        let tree = serde_json::from_slice::<serde_json::Value>(header).ok()?;
        Some((tree, rest[header.len()..].to_vec()))
    })();
    let Some((mut tree, mut content)) = header.filter(|_| !random.one_in(8)) else {
        return mutate(data, size, max_size);
    };
    match random.below(8) {
        0 => {
            // A tensor that fits.
            let dtype = WORDS.texts[random.below(22)];
            let shape: Vec<usize> = (0..random.below(4)).map(|_| random.below(5)).collect();
            let tensor = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [0, 0] });
            if let Some(map) = tree.as_object_mut() {
                map.insert(random.pick(WORDS.keys).to_owned(), tensor);
            }
        }
        1 => {
            let len = content.len();
            content.resize(len + 16, 0);
            let new = mutate(&mut content, len, len + 16);
            content.truncate(new);
        }
        _ => (0..1 + random.below(2)).for_each(|_| json::change(&mut tree, &mut random, &WORDS, mutate)),
    }
    if !random.one_in(4) {
        place(&mut tree, &mut content, max_size);
    }
    let mut text = json::text(&tree, &mut random);
    if !random.one_in(6) {
        text.resize(text.len().next_multiple_of(8), b' ');
    }
    let new = [&(text.len() as u64).to_le_bytes(), &text[..], &content].concat();
    json::put(data, &new, max_size).unwrap_or_else(|| mutate(data, size, max_size))
}

/// Puts tensors one behind the other, and gives them as much data as they take.
fn place(tree: &mut serde_json::Value, content: &mut Vec<u8>, max_size: usize) {
    let mut at = 0u64;
    for (_, tensor) in tree.as_object_mut().into_iter().flatten().filter(|(key, _)| *key != "__metadata__") {
        let Some(tensor) = tensor.as_object_mut() else { return };
        let dtype = tensor.get("dtype").and_then(serde_json::Value::as_str).unwrap_or_default();
        let dims = tensor.get("shape").and_then(serde_json::Value::as_array).into_iter().flatten();
        let count = dims.map(|dim| dim.as_u64().unwrap_or(0)).try_fold(bits(dtype), u64::checked_mul);
        let Some(end) = count.and_then(|bits| at.checked_add(bits.div_ceil(8))).filter(|&end| end <= max_size as u64)
        else {
            return;
        };
        tensor.insert("data_offsets".to_owned(), serde_json::json!([at, end]));
        at = end;
    }
    content.resize(at as usize, 1);
}

/// What `safetensors` calls a dtype.
fn dtype_name(dtype: dolmen::DType) -> String {
    use dolmen::DType;
    match dtype {
        DType::Bool => "BOOL".into(),
        DType::F8E4M3Fn => "F8_E4M3".into(),
        DType::F8E5M2 => "F8_E5M2".into(),
        DType::F8E8M0Fnu => "F8_E8M0".into(),
        DType::F8E4M3Fnuz => "F8_E4M3FNUZ".into(),
        DType::F8E5M2Fnuz => "F8_E5M2FNUZ".into(),
        DType::F4E2M1Fn => "F4".into(),
        DType::F6E2M3Fn => "F6_E2M3".into(),
        DType::F6E3M2Fn => "F6_E3M2".into(),
        DType::BF16 => "BF16".into(),
        other => other.name().to_uppercase(),
    }
}
