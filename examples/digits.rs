//! Runs a small network from a checkpoint: recognises handwritten digits.
//!
//! `cargo run --example digits [CHECKPOINT]`. The checkpoint is `examples/data/digits.safetensors`, read in place, unless another one is
//! named: convert it with `dolmen convert` and try that.

use dolmen::Checkpoint;

fn main() -> dolmen::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "examples/data/digits.safetensors".into());
    let ckpt = Checkpoint::open(&path)?;
    let (w1, b1) = (layer(&ckpt, "hidden.weight")?, layer(&ckpt, "hidden.bias")?);
    let (w2, b2) = (layer(&ckpt, "output.weight")?, layer(&ckpt, "output.bias")?);
    let images: &[u8] = ckpt.tensor("held_out.images")?.as_slice()?;
    let labels: &[u8] = ckpt.tensor("held_out.labels")?.as_slice()?;

    let mut right = 0;
    for (image, &label) in images.chunks_exact(64).zip(labels) {
        let pixels: Vec<f32> = image.iter().map(|&pixel| f32::from(pixel) / 16.0).collect();
        let hidden: Vec<f32> = dense(&w1, &b1, &pixels).map(|x| x.max(0.0)).collect();
        let scores = dense(&w2, &b2, &hidden);
        let best = scores.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(digit, _)| digit);
        right += u32::from(best == Some(usize::from(label)));
    }
    println!("{path}: {right} of {} digits recognised", labels.len());
    Ok(())
}

/// A layer's numbers. They are copied, for the data of a safetensors file need not be aligned; a Dolmen file's could be borrowed with
/// `as_slice`.
fn layer(ckpt: &Checkpoint, name: &str) -> dolmen::Result<Vec<f32>> {
    ckpt.tensor(name)?.to_vec()
}

fn dense<'a>(weight: &'a [f32], bias: &'a [f32], input: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
    weight
        .chunks_exact(input.len())
        .zip(bias)
        .map(move |(row, bias)| row.iter().zip(input).map(|(w, x)| w * x).sum::<f32>() + bias)
}
