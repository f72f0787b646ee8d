// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// A linear layer in integers: y[o] = clamp((sum_i x[i] * w[o][i] + b[o]) * m[o], shifted right).
//
// One input vector at a time: raise `start` for a cycle with `x` in place and keep it there until
// `done`. LANES weights are multiplied in a cycle. Outputs come in order, one at each `y_valid`.
// The shift rounds half up, as the exporter's integer path does. Weights, biases and multipliers
// are loaded from memory images: a word of weights holds LANES, the first in its lowest bits, and
// each output's weights begin a word.

`timescale 1ns / 1ps

module multiply_shift_layer #(
    parameter INPUTS = 8,
    parameter OUTPUTS = 4,
    parameter LANES = 8,
    parameter INPUT_BITS = 8,
    parameter WEIGHT_BITS = 8,     // of a weight in the image
    parameter MULTIPLIER_BITS = 32,
    parameter OUTPUT_BITS = 16,
    parameter SHIFT = 26,
    parameter WEIGHTS = "weight.mem",
    parameter BIASES = "bias.mem",
    parameter MULTIPLIERS = "multiplier.mem"
) (
    input wire clk,
    input wire reset,
    input wire start,
    input wire [INPUTS*INPUT_BITS-1:0] x,
    output reg y_valid,
    output reg signed [OUTPUT_BITS-1:0] y,
    output reg done
);
  localparam WORDS = (INPUTS + LANES - 1) / LANES;
  localparam signed [OUTPUT_BITS-1:0] LARGEST = {1'b0, {(OUTPUT_BITS - 1) {1'b1}}};
  localparam signed [OUTPUT_BITS-1:0] LEAST = {1'b1, {(OUTPUT_BITS - 1) {1'b0}}};

  reg [LANES*WEIGHT_BITS-1:0] weights[0:OUTPUTS*WORDS-1];
  reg signed [31:0] biases[0:OUTPUTS-1];
  reg signed [MULTIPLIER_BITS-1:0] multipliers[0:OUTPUTS-1];

  initial begin
    $readmemh(WEIGHTS, weights);
    $readmemh(BIASES, biases);
    $readmemh(MULTIPLIERS, multipliers);
  end

  reg busy;
  reg [31:0] out_index;
  reg [31:0] word_index;
  reg signed [31:0] sum;

  integer lane;
  integer at;
  reg signed [31:0] partial;
  reg signed [31:0] one_input;
  reg signed [31:0] one_weight;

  // What LANES products add to the sum.
  always @* begin
    partial = 0;
    for (lane = 0; lane < LANES; lane = lane + 1) begin
      at = word_index * LANES + lane;
      if (at < INPUTS) begin
        one_input = $signed(x[at*INPUT_BITS+:INPUT_BITS]);
        one_weight = $signed(weights[out_index*WORDS+word_index][lane*WEIGHT_BITS+:WEIGHT_BITS]);
        partial = partial + one_input * one_weight;
      end
    end
  end

  wire signed [31:0] total = sum + partial + biases[out_index];
  wire signed [63:0] product = total * $signed({{32{multipliers[out_index][MULTIPLIER_BITS-1]}},
                                                multipliers[out_index]});
  wire signed [63:0] shifted = (product + (64'sd1 <<< SHIFT >>> 1)) >>> SHIFT;

  always @(posedge clk) begin
    y_valid <= 1'b0;
    done <= 1'b0;
    if (reset) begin
      busy <= 1'b0;
    end else if (!busy) begin
      if (start) begin
        busy <= 1'b1;
        out_index <= 0;
        word_index <= 0;
        sum <= 0;
      end
    end else if (word_index + 1 < WORDS) begin
      sum <= sum + partial;
      word_index <= word_index + 1;
    end else begin
      y_valid <= 1'b1;
      y <= shifted > LARGEST ? LARGEST : shifted < LEAST ? LEAST : shifted[OUTPUT_BITS-1:0];
      sum <= 0;
      word_index <= 0;
      out_index <= out_index + 1;
      if (out_index + 1 == OUTPUTS) begin
        busy <= 1'b0;
        done <= 1'b1;
      end
    end
  end
endmodule
