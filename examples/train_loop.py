"""Sparse training in a plain PyTorch loop: LeNet-300-100 on scikit-learn's digits, 95 % of the weights zero.

    python examples/train_loop.py

What is marked with sw is all that sparse training adds. Needs torch, scikit-learn and sparsewright.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import sparsewright as sw

# settings
epochs, batch_size, learning_rate = 20, 64, 0.1
sparsity = 0.95
seed = 0

# data: 1797 images of 8x8, the last 360 for testing
torch.manual_seed(seed)
pixels, targets = load_digits(return_X_y=True)
images = torch.tensor(pixels, dtype=torch.float32) / 16
labels = torch.tensor(targets)
train_x, test_x = images[:-360], images[-360:]
train_y, test_y = labels[:-360], labels[-360:]

# model and optimizer, as always
model = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
steps = epochs * -(-len(train_x) // batch_size)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

# sw: attached to model and optimizer; from now on every optimizer.step() keeps the masks and moves them when due
sparsifier = sw.GraNet(model, optimizer, sparsity=sparsity, total_steps=steps, update_interval=20)

for epoch in range(epochs):
    for batch in torch.randperm(len(train_x)).split(batch_size):
        loss = F.cross_entropy(model(train_x[batch]), train_y[batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    with torch.no_grad():
        accuracy = 100 * (model(test_x).argmax(1) == test_y).float().mean().item()
    print(f"epoch {epoch + 1:2d}  accuracy {accuracy:.2f} %  sparsity {100 * sparsifier.sparsity():.2f} %")  # sw

sparsifier.finalize()  # sw: hooks removed; what is left is a plain model with exact zeros

weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
zeros = sum(int((weight == 0).sum()) for weight in weights)
total = sum(weight.numel() for weight in weights)
with torch.no_grad():
    accuracy = 100 * (model(test_x).argmax(1) == test_y).float().mean().item()
print(f"test accuracy {accuracy:.2f} %, {zeros} of {total} weights are zero ({100 * zeros / total:.2f} %)")
