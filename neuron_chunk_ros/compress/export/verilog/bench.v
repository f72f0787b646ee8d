// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Loads a layer's images and golden vectors and asserts that every output is the golden one. The
// parameters come from the file that the exporter writes for each layer. Ends with status 0 and
// "PASS", or with a line for each difference and status 1.

`timescale 1ns / 1ps
`ifndef LAYER
`define LAYER "layer.vh"
`endif

module bench;
  `include `LAYER

  reg clk = 0, reset = 1, start = 0;
  reg [INPUTS*INPUT_BITS-1:0] x;
  wire y_valid, done;
  wire signed [OUTPUT_BITS-1:0] y;

  reg [INPUT_BITS-1:0] inputs[0:VECTORS*INPUTS-1];
  reg signed [OUTPUT_BITS-1:0] golden[0:VECTORS*OUTPUTS-1];

  multiply_shift_layer #(
      .INPUTS(INPUTS), .OUTPUTS(OUTPUTS), .LANES(LANES), .INPUT_BITS(INPUT_BITS),
      .WEIGHT_BITS(WEIGHT_BITS), .MULTIPLIER_BITS(MULTIPLIER_BITS), .OUTPUT_BITS(OUTPUT_BITS),
      .SHIFT(SHIFT), .WEIGHTS(WEIGHTS), .BIASES(BIASES), .MULTIPLIERS(MULTIPLIERS)
  ) layer (.clk(clk), .reset(reset), .start(start), .x(x), .y_valid(y_valid), .y(y), .done(done));

  always #1 clk = ~clk;

  integer vector, i, count, wrong = 0;

  initial begin
    $readmemh(GOLDEN_INPUTS, inputs);
    $readmemh(GOLDEN_OUTPUTS, golden);
    @(negedge clk);
    @(negedge clk) reset = 0;
    for (vector = 0; vector < VECTORS; vector = vector + 1) begin
      for (i = 0; i < INPUTS; i = i + 1) x[i*INPUT_BITS+:INPUT_BITS] = inputs[vector*INPUTS+i];
      start = 1;
      @(negedge clk) start = 0;
      count = 0;
      while (count < OUTPUTS) begin
        @(negedge clk);
        if (y_valid) begin
          // !== also finds a number that is unknown, as where an image is missing.
          if (y !== golden[vector*OUTPUTS+count]) begin
            wrong = wrong + 1;
            $display("FAIL: vector %0d, output %0d: %0d, golden %0d", vector, count, y,
                     golden[vector*OUTPUTS+count]);
          end
          count = count + 1;
        end
      end
    end
    if (wrong != 0) $fatal(1, "FAIL: %0d of %0d outputs differ", wrong, VECTORS * OUTPUTS);
    $display("PASS: %0d outputs", VECTORS * OUTPUTS);
    $finish;
  end
endmodule
