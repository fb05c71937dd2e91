// BullMQ: one worker with many jobs at a time; finished jobs are removed.
import { Queue, Worker } from 'bullmq';
import { drive, note, payload, QUEUE, SETTINGS, URL_ } from './driver.mjs';

const { hostname: host, port } = new URL(URL_);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };
const opts = { removeOnComplete: true };
let queue;

await drive({
  async prepare() {},

  async open() {
    queue = new Queue(QUEUE, { connection });
  },

  submit: (id) => queue.add('noop', payload(id), opts),
  submitMany: (ids) => queue.addBulk(ids.map((id) => ({ name: 'noop', data: payload(id), opts }))),

  async work() {
    new Worker(QUEUE, async (job) => note(job.data.id), { connection, ...SETTINGS.worker });
  },
});
