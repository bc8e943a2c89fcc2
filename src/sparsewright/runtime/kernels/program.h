// The plain C interface between the planner in Python (runtime/library.py mirrors it) and the kernels.
//
// Activations are planar: one plane of floats per channel, and in it, image after image, rows of pixels with gaps of
// zeros between rows and images that stand for the padding of convolutions. A position is an index into a plane.
#pragma once
#include <cstdint>

extern "C" {

enum Kind : int64_t {
  kSparse = 0,   // rows of kept weights, each with the offset of its input: convolution, or a linear layer on a batch
  kDense = 1,    // the same with all weights of a block of rows at once
  kSparseRow = 2,  // a linear layer on one sample: kept weights of each output, and the index of their input
  kDenseRow = 3,   // a linear layer on one sample
  kCopy = 4,     // pixels to another layout
  kMaxPool = 5,
  kAveragePool = 6,
  kGlobalAverage = 7,
  kAffine = 8,   // scale and shift of each channel
  kPhases = 9,   // every so many rows and columns as pictures of their own, behind each other
};

struct Planes {
  int64_t plane;   // floats from channel to channel
  int64_t begin;   // position of the first pixel
  int64_t image;   // floats from image to image
  int64_t row;     // floats from row to row
  int64_t column;  // floats from pixel to pixel
};

struct Operation {
  int64_t kind;
  const float* input;
  float* output;
  const float* residual;    // added before the limits, laid out as the output; or null
  const float* values;      // kSparse, kSparseRow: kept weights; kDense: [block][tap][row in block]; kDenseRow: weights
  const int32_t* offsets;   // of each kept weight (kSparse, kSparseRow) or tap (kDense), in floats; kSparseRow: uint16
                            // for up to 65536 inputs; kPhases: first row and first column of each
  const int64_t* starts;    // kSparse, kSparseRow: where each row's weights begin; one more than rows
  const int32_t* rows;      // kSparse: the output channel of each row
  const float* bias;        // per output channel, zeros where there is none; kAffine: shifts
  const int32_t* valid;     // per position from `to.begin` on: -1 where there is a pixel, else 0
  float low, high;          // limits of what is stored
  int64_t channels;         // of the output
  int64_t inputs;           // kDense: taps; kSparseRow, kDenseRow: inputs; kPhases: phases
  int64_t positions;        // from `to.begin` to behind the last pixel
  int64_t tile;             // kSparse: most vectors of positions at a time
  int64_t passes;           // kSparse: tiles side by side before the next row
  int64_t images, height, width;  // of the output
  int64_t kernel_height, kernel_width, stride_height, stride_width, padding_height, padding_width;  // of pools
  int64_t input_height, input_width;
  int64_t divisor;          // kAveragePool: 0 counts the pixels under the window
  Planes from, to;
};

// All else is hidden, since the libraries of several instruction sets are loaded at once.
#pragma GCC visibility push(default)

// Of this interface; a planner of another version must not use the library.
int64_t sparsewright_version();

// Whether this machine runs an instruction set: "portable", "avx2", "avx512".
int sparsewright_runs(const char* instructions);

// Floats of a vector, rows in a block of kDense, and the most vectors of a tile of kSparse.
int64_t sparsewright_width();
int64_t sparsewright_dense_rows();
int64_t sparsewright_most_vectors();

// Runs the operations one after another, each on all threads.
void sparsewright_run(const Operation* operations, int64_t count, int64_t threads);

#pragma GCC visibility pop
}
