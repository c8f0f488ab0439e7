//! Copying the elements of a strided tensor out in row-major order.

use super::window::Window;
use crate::error::Result;

/// Gives the elements of a strided tensor, in row-major order, as runs of bytes that lie together.
///
/// `bytes` is the tensor's extent; `size` is bytes per element. No memory is needed beyond a counter for each axis. **Cost**: a
/// call for each run: the longest trailing part of the shape that is contiguous is one run.
pub(crate) fn for_each_run(
    bytes: &[u8],
    shape: &[u64],
    strides: &[u64],
    size: u64,
    mut run: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    if shape.contains(&0) {
        return Ok(());
    }
    // Places are sums within the extent, which was found not to overflow and to lie in the storage.
    // Axes of length 1 never move, whatever their stride; the others are kept as (dim, step in bytes).
    let mut axes: Vec<(u64, u64)> = shape
        .iter()
        .zip(strides)
        .filter(|&(&dim, _)| dim > 1)
        .map(|(&dim, &stride)| (dim, stride.saturating_mul(size)))
        .collect();
    let mut run_len = size;
    while let Some((dim, _)) = axes.pop_if(|&mut (_, step)| step == run_len) {
        run_len = run_len.saturating_mul(dim);
    }
    let bytes = Window::new(0, bytes);
    let mut counters = vec![0u64; axes.len()];
    let mut at = 0u64;
    loop {
        run(bytes.get(&(at..at.saturating_add(run_len)))?)?;
        // Counts like an odometer: the last axis that has a next element moves, those after it begin again.
        let mut moved = false;
        for (counter, &(dim, step)) in counters.iter_mut().zip(&axes).rev() {
            *counter = counter.saturating_add(1);
            if *counter < dim {
                at = at.saturating_add(step);
                moved = true;
                break;
            }
            at = at.saturating_sub(step.saturating_mul(dim.saturating_sub(1)));
            *counter = 0;
        }
        if !moved {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(bytes: &[u8], shape: &[u64], strides: &[u64], size: u64) -> (Vec<u8>, usize) {
        let mut out = Vec::new();
        let mut runs = 0;
        for_each_run(bytes, shape, strides, size, |run| {
            out.extend_from_slice(run);
            runs += 1;
            Ok(())
        })
        .unwrap();
        (out, runs)
    }

    #[test]
    fn elements_come_in_row_major_order_in_as_few_runs_as_possible() {
        let bytes: Vec<u8> = (0..24).collect();
        assert_eq!(gathered(&bytes[..6], &[3, 2], &[1, 3], 1), (vec![0, 3, 1, 4, 2, 5], 6));
        assert_eq!(gathered(&bytes, &[2, 3, 4], &[12, 4, 1], 1), (bytes.clone(), 1));
        assert_eq!(gathered(&bytes, &[2, 2], &[8, 1], 1), (vec![0, 1, 8, 9], 2));
        assert_eq!(gathered(&bytes, &[2, 2], &[0, 1], 2), (vec![0, 1, 2, 3, 0, 1, 2, 3], 2));
        assert_eq!(gathered(&bytes, &[1, 3, 1], &[99, 2, 77], 1), (vec![0, 2, 4], 3));
        assert_eq!(gathered(&bytes, &[], &[], 4), (vec![0, 1, 2, 3], 1));
        assert_eq!(gathered(&bytes, &[3, 0], &[1, 1], 4), (vec![], 0));
    }
}
