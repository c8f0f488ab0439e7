//! Safetensors: whatever both this crate and the crate `safetensors` take, they must take for the same.

use ::safetensors::SafeTensors;
use dolmen::{Checkpoint, ErrorKind};

use super::heap;
use super::open::{self, Outcome};

/// Bytes as they come. What the other crate refuses we must refuse; what it takes we may refuse, for the reasons in `README.md`.
pub fn safetensors(data: &[u8]) -> Outcome {
    let theirs = SafeTensors::deserialize(data);
    let (ours, peak) = heap::peak(|| Checkpoint::from_bytes(data));
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
    Outcome::Valid
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
