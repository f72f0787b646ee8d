# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node publishes: the right frame's header, answers, and a bill that adds up."""

import time

import cv2
import numpy as np
import pytest
from node_client import image, until
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage

from neuron_chunk_ros.programs.demo.scene_stream import nth_scene
from neuron_chunk_ros.tabletop.scenes import Scene, Thing, render

RED = Thing('red', 'circle', 0.3, 0.4, 0.28, 0.0)
BLUE = Thing('blue', 'circle', 0.3, 0.4, 0.28, 0.0)
QUESTION = 'what colour is the circle?'


def table(*things):
    scene = Scene(things, 'plain', ((120, 120, 120), (120, 120, 120)), 1)
    return render(scene, (320, 240))


def stamp(header):
    return header.stamp.sec, header.stamp.nanosec


def test_newest_frame_wins(vlm):
    for second in range(1, 8):
        vlm.images.publish(image(table(RED), (second, 0)))
        time.sleep(0.03)
    vlm.show(image(table(BLUE), (8, 5), 'left_eye'))
    answer = vlm.ask(QUESTION).answer
    assert (stamp(answer.header), answer.header.frame_id) == ((8, 5), 'left_eye')
    assert [stamp(header) for header in answer.images] == [(8, 5)]
    assert answer.text == 'blue'


def test_images_of_the_request_are_used_instead(vlm):
    vlm.show(image(table(BLUE), (8, 5)))
    answer = vlm.ask(QUESTION, images=[image(table(RED), (3, 9), 'hand')]).answer
    assert (stamp(answer.header), answer.header.frame_id) == ((3, 9), 'hand')
    assert answer.text == 'red'


def test_several_images_keep_their_order_and_the_newest_names_the_answer(vlm):
    views = [image(table(RED), (5, 0), 'a'), image(table(BLUE), (9, 1), 'b'),
             image(table(), (9, 0), 'c')]
    answer = vlm.ask('which view shows the blue circle?', images=views).answer
    assert [header.frame_id for header in answer.images] == ['a', 'b', 'c']
    assert answer.header.frame_id == 'b'


def test_steps_add_up_to_the_answers_bill(vlm, picture):
    picture.header.stamp.sec = 77
    del vlm.steps[:]
    answer = vlm.ask('is there a red circle?', images=[picture]).answer
    until(lambda: sum(s.bytes_read for s in vlm.steps) == answer.io.bytes_read,
          what='all steps of the answer')
    steps = list(vlm.steps)
    assert steps[0].step == 'prefill'
    assert all(step.step == 'decode' for step in steps[1:])
    for name in ('tokens', 'bytes_read', 'bytes_used', 'chunks', 'requests', 'rows_selected',
                 'rows_total'):
        assert sum(getattr(s, name) for s in steps) == getattr(answer.io, name), name
    for name in ('read_seconds', 'wait_seconds', 'compute_seconds', 'seconds'):
        assert sum(getattr(s, name) for s in steps) == pytest.approx(getattr(answer.io, name))
    assert np.array_equal(np.sum([s.contiguity for s in steps], 0), answer.io.contiguity)
    assert sum(answer.io.contiguity) == answer.io.chunks
    assert answer.io.step == 'answer' and answer.io.rows_selected == answer.io.rows_total
    assert answer.io.bytes_read >= answer.io.bytes_used > 0
    for message in (*steps, answer.io):
        assert message.header.stamp.sec == 77
        assert (message.model, message.policy) == (answer.model, 'dense')
        assert message.backend in ('io_uring', 'threads')


def test_answer_is_published_as_it_is_returned(vlm, picture):
    del vlm.answers[:]
    answer = vlm.ask('is there a red circle?', images=[picture]).answer
    until(lambda: vlm.answers, what='the published answer')
    assert vlm.answers[0] == answer
    assert answer.prompt == 'is there a red circle?'
    assert answer.finish_reason == 'stop' and 0 < answer.confidence <= 1 and answer.tokens
    timing = answer.timing
    parts = timing.queue + timing.preprocess + timing.vision + timing.prefill + timing.decode
    assert 0 < parts <= timing.total + 1e-6


def test_token_limit(vlm, picture):
    answer = vlm.ask('where is the red circle?', images=[picture], max_new_tokens=1).answer
    assert answer.tokens == 1


@pytest.mark.slow
@pytest.mark.parametrize('policy', ['topk', 'greedy'])
def test_sparse_policies_read_less(vlm, start, policy, picture):
    sparse = start(f'sparse_{policy}', policy=policy, sparsity=0.5)
    less = sparse.ask(images=[picture]).answer.io
    full = vlm.ask(images=[picture]).answer.io
    assert less.policy == policy
    assert less.rows_selected < full.rows_selected and less.importance_kept < 1


def test_compressed_images(start):
    vlm = start('squeezed', image_transport='compressed')
    pixels = np.ascontiguousarray(table(BLUE)[..., ::-1])
    message = CompressedImage(format='rgb8; jpeg compressed bgr8',
                              data=cv2.imencode('.jpg', pixels)[1].tobytes())
    message.header.stamp.sec = 4
    vlm.show(message)
    answer = vlm.ask(QUESTION).answer
    assert (answer.text, answer.header.stamp.sec) == ('blue', 4)
    vlm.show(CompressedImage(format='jpeg', data=b'broken'))
    response = vlm.ask(QUESTION)
    assert not response.success and "can't be decoded" in response.message


def test_a_scene_of_the_stream_is_always_the_same():
    assert nth_scene(3, 5) == nth_scene(3, 5) != nth_scene(3, 6)


@pytest.mark.slow
def test_policy_and_sparsity_follow_their_parameters(client, start, picture):
    vlm = start('changing')
    setter = client.node.create_client(SetParameters, 'changing/set_parameters')
    until(setter.service_is_ready, what='the parameter service')

    def set_parameter(name, value):
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()])
        return vlm.result(setter.call_async(request)).results[0]

    assert vlm.ask(images=[picture]).answer.io.policy == 'dense'
    assert set_parameter('sparsity', 0.5).successful
    assert set_parameter('policy', 'greedy').successful
    io = vlm.ask(images=[picture]).answer.io
    assert io.policy == 'greedy' and io.rows_selected < io.rows_total
    for name, value in (('policy', 'best'), ('sparsity', 0.96), ('sparsity', 1),
                        ('model', '/elsewhere'), ('queue_limit', 9), ('max_new_tokens', 0)):
        assert not set_parameter(name, value).successful, name
    assert set_parameter('max_new_tokens', 1).successful
    answer = vlm.ask('where is the red circle?', images=[picture]).answer
    assert (answer.io.policy, answer.tokens) == ('greedy', 1)
    client.node.destroy_client(setter)
