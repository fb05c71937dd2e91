// graphile-worker: its local queue and batched completion, as its page on performance describes.
import { Logger, makeWorkerUtils, run, runMigrations } from 'graphile-worker';
import pg from 'pg';
import { drive, note, payload, SETTINGS, URL_ } from './driver.mjs';

const logger = new Logger(() => () => {});
let producer;

await drive({
  prepare: () => runMigrations({ connectionString: URL_, logger }),

  async open() {
    const pgPool = new pg.Pool({ connectionString: URL_, max: SETTINGS.producer_pool });
    producer = await makeWorkerUtils({ pgPool, logger });
  },

  submit: (id) => producer.addJob('noop', payload(id)),
  submitMany: (ids) => producer.addJobs(ids.map((id) => ({ identifier: 'noop', payload: payload(id) }))),

  async work() {
    const runner = await run({
      connectionString: URL_,
      logger,
      preset: { worker: SETTINGS.worker },
      taskList: { noop: async ({ id }) => note(id) },
    });
    await runner.promise;
  },
});
