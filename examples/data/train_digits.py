"""Trains the small network in digits.safetensors.

Needs numpy, scikit-learn (for its bundled 8x8 digits) and safetensors:

    pip install numpy scikit-learn safetensors
    python3 examples/data/train_digits.py examples/data/digits.safetensors

The network has one hidden layer of 48 units. A hundred images that it was not trained on are stored beside the weights, so that
`cargo run --example digits` can show that what was loaded works.
"""

import sys

import numpy as np
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

rng = np.random.default_rng(20260101)
images, labels = load_digits(return_X_y=True)
order = rng.permutation(len(labels))
images, labels = (images[order] / 16).astype(np.float32), labels[order]
held_out, train = slice(0, 100), slice(100, None)

hidden_weight = rng.normal(0, 0.18, (48, 64)).astype(np.float32)
hidden_bias = np.zeros(48, np.float32)
output_weight = rng.normal(0, 0.2, (10, 48)).astype(np.float32)
output_bias = np.zeros(10, np.float32)
parameters = [hidden_weight, hidden_bias, output_weight, output_bias]
momentum = [np.zeros_like(p) for p in parameters]

x, y = images[train], np.eye(10, dtype=np.float32)[labels[train]]
for epoch in range(60):
    for batch in np.array_split(rng.permutation(len(x)), len(x) // 32):
        hidden = np.maximum(x[batch] @ hidden_weight.T + hidden_bias, 0)
        scores = hidden @ output_weight.T + output_bias
        scores = np.exp(scores - scores.max(1, keepdims=True))
        error = (scores / scores.sum(1, keepdims=True) - y[batch]) / len(batch)
        back = (error @ output_weight) * (hidden > 0)
        gradients = [back.T @ x[batch], back.sum(0), error.T @ hidden, error.sum(0)]
        for p, m, g in zip(parameters, momentum, gradients):
            m *= 0.9
            m += g
            p -= 0.05 * m

hidden = np.maximum(images[held_out] @ hidden_weight.T + hidden_bias, 0)
right = ((hidden @ output_weight.T + output_bias).argmax(1) == labels[held_out]).sum()
print(f"{right} of 100 held-out digits are right")
save_file(
    {
        "hidden.weight": hidden_weight,
        "hidden.bias": hidden_bias,
        "output.weight": output_weight,
        "output.bias": output_bias,
        "held_out.images": (images[held_out] * 16).astype(np.uint8).reshape(100, 8, 8),
        "held_out.labels": labels[held_out].astype(np.uint8),
    },
    sys.argv[1],
    metadata={"task": "8x8 handwritten digits", "layers": "64-48-10, relu", "version": "1.0"},
)
