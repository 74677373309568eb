# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""A stock consumer of notifications, as ceilometer or an operator has one."""

import threading

import fixtures
from oslo_config import cfg
import oslo_messaging


class Consumer(fixtures.Fixture):
    """Listens to a topic with oslo.messaging's own listener.

    :ivar received: tuples of priority, publisher id, event type, payload and
        metadata, in the order of their arrival
    """

    def __init__(self, conf_file, topic):
        """Name what is listened to.

        :param conf_file: path of a configuration with the transport_url
        :param topic: the topic without its priority
        """
        super().__init__()
        self._conf_file = conf_file
        self._topic = topic
        self.received = []
        self._changed = threading.Condition()

    def _setUp(self):
        conf = cfg.ConfigOpts()
        conf(['--config-file', str(self._conf_file)])
        transport = oslo_messaging.get_notification_transport(conf)
        self.addCleanup(transport.cleanup)
        listener = oslo_messaging.get_notification_listener(
            transport,
            [oslo_messaging.Target(topic=self._topic)],
            [self],
            executor='threading',
        )
        # one after the other: several threads would change their order
        listener.start(override_pool_size=1)
        self.addCleanup(listener.wait)
        self.addCleanup(listener.stop)

    def info(self, ctxt, publisher_id, event_type, payload, metadata):
        self._note('info', publisher_id, event_type, payload, metadata)

    def warn(self, ctxt, publisher_id, event_type, payload, metadata):
        self._note('warn', publisher_id, event_type, payload, metadata)

    def error(self, ctxt, publisher_id, event_type, payload, metadata):
        self._note('error', publisher_id, event_type, payload, metadata)

    def _note(self, *notification):
        with self._changed:
            self.received.append(notification)
            self._changed.notify_all()

    def wait_for(self, condition, timeout=120):
        """Wait until what has arrived satisfies something.

        :param condition: called with ``received``
        :param timeout: seconds
        :returns: what it returned last
        """
        with self._changed:
            return self._changed.wait_for(
                lambda: condition(self.received), timeout
            )

    def wait(self, count, timeout=120):
        """Wait until so many notifications have arrived.

        :param count: how many in all
        :param timeout: seconds
        :returns: whether they have
        """
        with self._changed:
            return self._changed.wait_for(
                lambda: len(self.received) >= count, timeout
            )
