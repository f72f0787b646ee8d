# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node tests share: a spinning client, and a vlm node started as a process."""

import array
import threading
import time

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.action import ActionClient
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from neuron_chunk_interfaces.action import Ask
from neuron_chunk_interfaces.msg import Answer, IoTelemetry
from neuron_chunk_interfaces.srv import Query
from neuron_chunk_ros.node.middleware import room_for_large_messages
from neuron_chunk_ros.node.qos import QUESTIONS, RESULTS
from neuron_chunk_ros.programs.child_process import ChildProcess

PATIENCE = 60.0


def until(condition, timeout=PATIENCE, what='the condition'):
    """Return the condition's first true value; fail when it stays false for the timeout [s]."""
    limit = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < limit, f'waited {timeout:g} s for {what}'
        time.sleep(0.005)
    return value


def image(pixels: np.ndarray, stamp: tuple[int, int] = (0, 0), frame='camera') -> Image:
    """Return an rgb8 message of uint8 [height, width, 3]."""
    height, width = pixels.shape[:2]
    message = Image(height=height, width=width, encoding='rgb8', step=width * 3,
                    data=array.array('B', pixels.tobytes()))
    message.header.stamp.sec, message.header.stamp.nanosec = stamp
    message.header.frame_id = frame
    return message


class Client:
    """A node whose callbacks run in a thread of their own."""

    def __enter__(self):
        # Tests elsewhere in this process send themselves signals; the context must outlive them.
        with room_for_large_messages():
            rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
            self.node = rclpy.create_node('tester')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._ending = False
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.diagnostics = []
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._diagnosed, 10)
        return self

    def __exit__(self, *_):
        self._ending = True
        self._thread.join(5.0)
        self.node.destroy_node()
        rclpy.shutdown()

    def in_its_thread(self, work):
        """Return what `work` returns, called where responses are taken.

        rclpy's action client notes what it waits for behind sending it: a response that another
        thread takes sooner is dropped, and feedback with it.
        """
        task = self._executor.create_task(work)
        until(task.done, what='the executor')
        return task.result()

    def _spin(self):
        while not self._ending:
            self._executor.spin_once(timeout_sec=0.05)

    def _diagnosed(self, message):
        self.diagnostics.append((time.monotonic(), message))


class VlmProcess:
    """A vlm node under its own name, so that several can live side by side."""

    def __init__(self, client, name, cameras=(), **parameters):
        self.client, self.name = client, name
        arguments = ['-r', f'__node:={name}']
        for topic in [f'{camera}/image' for camera in cameras] or ['image']:
            arguments += ['-r', f'{topic}:={name}/{topic}']
            # Best effort may lose a frame that a test shows once and waits for.
            parameters.setdefault(
                f'qos_overrides./{name}/{topic}.subscription.reliability', 'reliable')
        if cameras:
            parameters['cameras'] = list(cameras)
        for key, value in parameters.items():
            arguments += ['-p', f'{key}:={value}']
        self.arguments = arguments
        self.process = ChildProcess('neuron_chunk_ros.node.main', arguments, {})
        node = client.node
        self._clients = {
            'query': node.create_client(Query, f'{name}/query', qos_profile=QUESTIONS),
            'reset': node.create_client(Trigger, f'{name}/reset'),
            'change_state': node.create_client(ChangeState, f'{name}/change_state'),
            'get_state': node.create_client(GetState, f'{name}/get_state'),
            'set': node.create_client(
                SetParametersAtomically, f'{name}/set_parameters_atomically')}
        self._ask = None
        kind = CompressedImage if parameters.get('image_transport') == 'compressed' else Image
        self.cameras = {
            camera: node.create_publisher(kind, '/'.join(filter(None, (name, camera, 'image'))), 1)
            for camera in cameras or ['']}
        self.images = next(iter(self.cameras.values()))
        self.answers, self.steps = [], []
        self._subscriptions = [
            node.create_subscription(Answer, f'{name}/answer', self.answers.append, RESULTS),
            node.create_subscription(IoTelemetry, f'{name}/telemetry', self.steps.append, RESULTS)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End the process and forget its topics."""
        self.process.end()
        node = self.client.node
        for subscription in self._subscriptions:
            node.destroy_subscription(subscription)
        for publisher in self.cameras.values():
            node.destroy_publisher(publisher)
        for client in self._clients.values():
            node.destroy_client(client)
        self.hang_up()

    def wait_until_ready(self):
        """Block until the node is active: every topic and service is connected."""
        self.wait_until_there()

        def seeing():
            assert self.process.exit_code() is None, self.process.output()
            return all(p.get_subscription_count() for p in self.cameras.values())
        until(seeing, what=f'{self.name} to subscribe')

    def wait_until_there(self):
        """Block until the node's services answer, in whatever state it is."""
        def there():
            assert self.process.exit_code() is None, self.process.output()
            return (all(client.service_is_ready() for client in self._clients.values())
                    and all(self.client.node.count_publishers(s.topic_name)
                            for s in self._subscriptions))
        until(there, what=f'{self.name} to be there')

    def restart(self):
        """Start the process again, with what it was started with."""
        self.process = ChildProcess(
            'neuron_chunk_ros.node.main', self.arguments, {})

    def ask_later(self, prompt='how many things are there?', **fields):
        """Send a question; return its future."""
        return self._clients['query'].call_async(Query.Request(prompt=prompt, **fields))

    def ask(self, prompt='how many things are there?', **fields):
        """Ask and wait for the response."""
        return self.result(self.ask_later(prompt, **fields))

    def send_goal(self, on_feedback=None, prompt='how many things are there?', **fields):
        """Send a goal to ~/ask; return the handle of the accepted goal."""
        if self._ask is None:
            # rclpy's ten places lose what comes while this process is busy.
            self._ask = ActionClient(self.client.node, Ask, f'{self.name}/ask',
                                     feedback_sub_qos_profile=QUESTIONS)
        until(self._ask.server_is_ready, what='the action server')
        goal = self.result(self.client.in_its_thread(lambda: self._ask.send_goal_async(
            Ask.Goal(prompt=prompt, **fields), feedback_callback=on_feedback)))
        assert goal.accepted
        return goal

    def outcome_later(self, goal):
        """Ask for a goal's result; return its future."""
        return self.client.in_its_thread(goal.get_result_async)

    def outcome(self, goal):
        """Wait for a goal's result."""
        return self.result(self.outcome_later(goal))

    def cancel_later(self, goal):
        """Ask for a goal to be cancelled; return its future."""
        return self.client.in_its_thread(goal.cancel_goal_async)

    def hang_up(self):
        """Give up the action client, so that it no longer counts as a listener."""
        if self._ask is not None:
            self._ask.destroy()
            self._ask = None

    def set(self, **values):
        """Set parameters together; return ('' or the reason why not)."""
        request = SetParametersAtomically.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()])
        answer = self.result(self._clients['set'].call_async(request)).result
        assert answer.successful == (not answer.reason)
        return answer.reason

    def state(self):
        """Return the label of the node's lifecycle state."""
        return self.result(
            self._clients['get_state'].call_async(GetState.Request())).current_state.label

    def change_state(self, transition):
        """Ask for a lifecycle transition; return whether it succeeded."""
        return self.result(self.change_state_later(transition)).success

    def change_state_later(self, transition):
        """Ask for a lifecycle transition; return its future."""
        request = ChangeState.Request()
        request.transition.label = transition
        return self._clients['change_state'].call_async(request)

    def result(self, future):
        """Wait for a future's result, as long as the node lives."""
        def done():
            return future.done() or self.process.exit_code() is not None
        until(done, what='a response')
        # What a process sent before it ended may not have been taken here yet.
        until(future.done, 5.0, f'a response of a process that is gone: {self.process.output()}')
        return future.result()

    def wait_for_step(self, answering):
        """Wait until the question is being answered: its first step has been published."""
        def stepped():
            assert not answering.done(), answering.result().message
            return self.steps
        until(stepped, what='the first step of an answer')

    def reset(self):
        """Call ~/reset and wait for its response."""
        return self.result(self._clients['reset'].call_async(Trigger.Request()))

    def show(self, message, camera=None):
        """Publish an image; return once the node has it, and has had time to take it."""
        publisher = self.images if camera is None else self.cameras[camera]
        until(publisher.get_subscription_count, what='a subscription to images')
        publisher.publish(message)
        assert publisher.wait_for_all_acked(Duration(seconds=PATIENCE)), 'it never arrived'
        time.sleep(0.3)

    def status(self, part, accept=lambda status: True):
        """Return the next status of this part, published from now on, that is acceptable."""
        seen = len(self.client.diagnostics)

        def find():
            for _, message in self.client.diagnostics[seen:]:
                for status in message.status:
                    if status.name == f'{self.name}: {part}' and accept(status):
                        return status
            return None
        return until(find, 10.0, f'a status of {self.name}: {part}')
