// pg-boss: big batches fetched in bursts, woken by LISTEN/NOTIFY.
import { PgBoss } from 'pg-boss';
import { drive, note, payload, QUEUE, SETTINGS, URL_ } from './driver.mjs';

let boss;

async function start(options) {
  boss = new PgBoss({ connectionString: URL_, max: SETTINGS.pool, ...options });
  boss.on('error', (error) => console.error(error.message));
  await boss.start();
}

await drive({
  async prepare() {
    await start({});
    await boss.createQueue(QUEUE, SETTINGS.queue);
    await boss.stop({ graceful: false });
  },

  open: () => start({ supervise: false, schedule: false }),
  submit: (id) => boss.send(QUEUE, payload(id)),
  submitMany: (ids) => boss.insert(QUEUE, ids.map((id) => ({ data: payload(id) }))),

  async work() {
    await start({ useListenNotify: true });
    await boss.work(QUEUE, SETTINGS.work, async (jobs) => {
      for (const job of jobs) note(job.data.id);
    });
  },
});
